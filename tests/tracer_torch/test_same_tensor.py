"""`Event.same_as`: named when the very same values were recorded before, never when they changed."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from firstdiff.tracer.torch import capture_torch, recording
from firstdiff.traces.schema import Key


class Chain(nn.Module):
    """Passes a tensor through two identities; ``between`` may change it."""

    def __init__(self, between=None) -> None:
        super().__init__()
        self.one = nn.Identity()
        self.two = nn.Identity()
        self.between = between

    def forward(self, x):
        y = self.one(x)
        if self.between is not None:
            y = self.between(y)
        return self.two(y)


def test_untouched_tensor_is_named_by_its_first_key(sink):
    capture_torch(Chain(), None, {"x": torch.randn(2000)}, sink=sink)
    origin = Key("", "input", "x")
    assert [e.same_as for e in sink.events] == [None, origin, origin, origin, origin, origin]


def changed(between, sink, x=None) -> None:
    x = torch.randn(4000) if x is None else x
    capture_torch(Chain(between), None, {"x": x}, sink=sink, verify=False)
    before, after = sink["one", "output"], sink["two", "input", "input"]
    assert not np.array_equal(before.value, after.value)
    assert after.same_as is None
    assert sink["two", "output"].same_as == Key("two", "input", "input")


def test_in_place_operation(sink):
    changed(lambda y: y.add_(1), sink)


def test_in_place_operation_on_a_view(sink):
    def through_view(y):
        y[5:7].zero_()
        return y

    changed(through_view, sink)


def test_write_that_torch_does_not_count(sink):
    def through_data(y):
        y.data[3] = 7.0
        return y

    changed(through_data, sink)


def test_write_through_shared_memory(sink):
    def through_numpy(y):
        y.numpy()[-1] = 9.0
        return y

    changed(through_numpy, sink)


def test_reshaped_in_place(sink):
    changed(lambda y: y.t_(), sink, torch.randn(30, 40))


def test_freed_memory_that_is_used_again(sink):
    model = nn.Identity()
    with recording(model, sink):
        for value in range(50):
            model(torch.full((4096,), float(value)))
    for event in sink.events:
        if event.key.site == "input":
            assert event.same_as is None
            assert (event.value == event.key.step).all()


def test_inference_tensors_have_no_version(sink):
    with torch.inference_mode(), recording(Chain(lambda y: y.add_(1)), sink) as recorder:
        recorder._model(torch.zeros(3))
    assert sink["two", "output"].value.tolist() == [1.0] * 3
    assert all(e.same_as is None for e in sink.events)


def test_same_values_in_another_tensor_are_not_the_same(sink):
    capture_torch(Chain(lambda y: y.clone()), None, {"x": torch.randn(3)}, sink=sink)
    assert sink["two", "input", "input"].same_as is None
