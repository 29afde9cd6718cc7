"""What a capture records is what plain torch code computes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from firstdiff.tracer.selection import Selection
from firstdiff.tracer.torch import capture_torch, recording
from firstdiff.traces.dtypes import widen


def equal(event, tensor: torch.Tensor) -> bool:
    return np.array_equal(event.value, tensor.detach().numpy())


def test_values_of_a_plain_network(net, sink):
    x, bias = torch.randn(3, 4), torch.randn(4)
    capture = capture_torch(net, None, {"x": x, "bias": bias}, sink=sink)
    with torch.no_grad():
        f, s = net.first, net.second
        up = F.linear(x, f.up.weight, f.up.bias)
        h = F.linear(F.relu(up), f.down.weight, f.down.bias)
        one = x + h * 2.0
        h2 = F.linear(F.relu(F.linear(one, s.up.weight, s.up.bias)), s.down.weight, s.down.bias)
        two = one + (h2 + bias)
    assert equal(sink["", "input", "x"], x)
    assert equal(sink["", "input", "bias"], bias)
    assert equal(sink["first", "input", "x"], x)
    assert equal(sink["first", "input", "scale"], torch.tensor(2.0))
    assert equal(sink["first.up", "output"], up)  # not what the in-place ReLU made of it
    assert equal(sink["first.act", "output"], F.relu(up))
    assert equal(sink["first", "output", "0"], one)
    assert equal(sink["first", "output", "1.delta"], h * 2.0)
    assert equal(sink["second", "input", "bias"], bias)
    assert equal(sink["second", "output", "0"], two)
    assert equal(sink["second", "input", "x", 1], two)
    assert equal(sink["", "output"], net(x, bias))
    assert np.array_equal(capture.outputs[""].array, net(x, bias).detach().numpy())


def test_execution_order_and_no_duplicate_keys(net, sink):
    capture_torch(net, None, {"x": torch.randn(3, 4)}, sink=sink)
    keys = sink.names()
    assert len(set(keys)) == len(keys)
    order = [(k.path, k.site, k.call) for k in keys]
    first = order.index
    assert first(("", "input", 0)) < first(("first", "input", 0)) < first(("first.up", "input", 0))
    assert first(("first.down", "output", 0)) < first(("first", "output", 0))
    assert first(("second", "output", 0)) < first(("second", "input", 1))
    assert order[-1] == ("", "output", 0)
    assert {k.method for k in keys} == {"forward"}
    assert not any(k.leaf == "1.nothing" for k in keys)


def test_class_names_and_description(net, sink):
    capture = capture_torch(net, None, {"x": torch.randn(3, 4)}, sink=sink)
    assert sink["first.up", "input", "input"].class_name == "Linear"
    assert ("first.up", "Linear") in capture.modules
    assert capture.modules[0] == ("", "Net")
    assert capture.parameters == sum(p.numel() for p in net.parameters())
    assert (capture.dtype, capture.device, capture.steps) == ("float32", "cpu", 1)
    assert capture.versions["torch"] == torch.__version__
    assert capture.precision["float32_matmul_precision"] == torch.get_float32_matmul_precision()
    assert capture.notes == ()


def test_recorded_values_survive_later_changes_in_place(sink):
    class Changing(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Identity()

        def forward(self, x):
            y = self.inner(x)
            y.mul_(3.0)
            return y

    x = torch.ones(2)
    with recording(Changing(), sink) as recorder:
        recorder._model(x)
    assert sink["inner", "output"].value.tolist() == [1.0, 1.0]
    assert sink["", "output"].value.tolist() == [3.0, 3.0]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64", "float8_e4m3fn", "complex64"])
def test_dtypes_are_exact(dtype, sink):
    x = torch.randn(5, 3).to(getattr(torch, dtype))
    capture_torch(nn.Identity(), None, {"input": x}, sink=sink)
    event = sink["", "output"]
    assert event.dtype == dtype
    numbers = widen(event.value, event.dtype)
    wide = x.to(torch.complex128 if x.is_complex() else torch.float64).numpy()
    assert np.array_equal(numbers.astype(wide.dtype), wide)


@pytest.mark.parametrize(
    "x",
    [
        torch.arange(6).reshape(2, 3).T,
        torch.arange(3.0).expand(2, 3),
        torch.tensor(1.5),
        torch.zeros(0, 3),
        torch.tensor([True, False]),
        torch.tensor([1 + 2j]).conj(),
        torch.randn(3, requires_grad=True),
    ],
    ids=["transposed", "expanded", "scalar", "empty", "bool", "conjugate", "grad"],
)
def test_any_layout(x, sink):
    capture_torch(nn.Identity(), None, {"input": x}, sink=sink)
    event = sink["", "output"]
    assert event.value.shape == tuple(x.shape)
    assert np.array_equal(event.value, x.detach().resolve_conj().numpy())


def test_selection_by_glob_and_site(net, sink):
    selection = Selection(("*.up",), ("output",))
    capture = capture_torch(net, None, {"x": torch.randn(3, 4)}, sink=sink, selection=selection)
    assert [(k.path, k.site, k.call) for k in sink.names()] == [
        ("first.up", "output", 0),
        ("second.up", "output", 0),
        ("second.up", "output", 1),
    ]
    assert capture.never_fired == ()


def test_hidden_states_of_transformers(tiny_qwen2, tokens, sink):
    capture_torch(tiny_qwen2, None, tokens | {"use_cache": False}, sink=sink)
    with torch.no_grad():
        reference = tiny_qwen2(**tokens, use_cache=False, output_hidden_states=True)
    for layer in range(2):
        event = sink[f"model.layers.{layer}", "input", "hidden_states"]
        assert equal(event, reference.hidden_states[layer])
    assert equal(sink["model.norm", "output"], reference.hidden_states[-1])
    assert equal(sink["", "output", "logits"], reference.logits)
