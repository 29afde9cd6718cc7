"""Names, aliases, calls and steps: how events are keyed."""

from __future__ import annotations

import collections
import dataclasses

import pytest
import torch
from torch import nn

from firstdiff.tracer.leaves import Parameters, leaves
from firstdiff.tracer.torch import capture_torch, recording
from firstdiff.traces.errors import CaptureError


def test_shared_module_is_recorded_once_and_aliased(sink):
    shared = nn.Sequential(nn.Linear(2, 2))
    model = nn.ModuleDict({"a": shared, "b": shared})
    model.forward = lambda x: model["b"](model["a"](x))
    capture = capture_torch(model, None, {"x": torch.ones(1, 2)}, sink=sink)
    assert capture.aliases == {"a": ("b",), "a.0": ("b.0",)}
    assert [k.call for k in sink.names() if k.path == "a.0" and k.site == "output"] == [0, 1]
    assert [path for path, _ in capture.modules] == ["", "a", "a.0"]


def test_modules_that_never_fired_are_named(sink):
    class Lazy(nn.Module):
        def __init__(self):
            super().__init__()
            self.used = nn.ModuleList([nn.Linear(2, 2)])
            self.unused = nn.ModuleList([nn.Linear(2, 2)])

        def forward(self, x):
            return self.used[0](x)

    capture = capture_torch(Lazy(), None, {"x": torch.ones(1, 2)}, sink=sink)
    assert capture.never_fired == ("unused.0",)  # a ModuleList has no forward that could fire


def test_each_forward_of_the_root_is_a_step(net, sink):
    with torch.no_grad(), recording(net, sink) as recorder:
        for _ in range(3):
            net(torch.randn(2, 4))
    assert recorder.step == 2
    assert [k.step for k in sink.names() if k.path == "" and k.site == "output"] == [0, 1, 2]
    assert {k.call for k in sink.names() if k.path == "second"} == {0, 1}
    assert len(set(sink.names())) == len(sink.events)


def test_a_submodule_called_by_itself_does_not_collide(net, sink):
    with torch.no_grad(), recording(net, sink):
        net.first(torch.randn(2, 4))
        net(torch.randn(2, 4))
        net.first(torch.randn(2, 4))
    found = [(k.step, k.call) for k in sink.names() if k.path == "first" and k.leaf == "0"]
    assert found == [(0, 0), (1, 0), (1, 1)]


def test_a_forward_that_raised_ends_its_call(net, sink):
    with torch.no_grad(), recording(net, sink):
        with pytest.raises(RuntimeError):
            net(torch.randn(2, 5))
        net(torch.randn(2, 4))
    assert sink["first.up", "output", "", 0, 1].value.shape == (2, 8)
    assert ("", "output", 0) not in [(k.path, k.site, k.step) for k in sink.names()]


def test_arguments_are_named_by_the_signature():
    def forward(a, b, *rest, c=None, **more): ...

    bound = dict(Parameters.of(forward).bind((1, 2, 3, 4), {"c": 5, "d": 6}))
    assert bound == {"a": 1, "b": 2, "rest.0": 3, "rest.1": 4, "c": 5, "d": 6}
    unknown = Parameters.of(print.__class__.__call__)
    assert unknown.rest == "args"


def test_leaves_of_every_container():
    Point = collections.namedtuple("Point", "x y")

    @dataclasses.dataclass
    class Record:
        first: object
        second: object

    one, two = object(), object()
    assert list(leaves(one)) == [("", one)]
    assert list(leaves((one, [two, None, 3, "s"]))) == [("0", one), ("1.0", two)]
    assert list(leaves(Point(one, two), "p")) == [("p.x", one), ("p.y", two)]
    assert list(leaves({"k": Record(one, (two,))})) == [("k.first", one), ("k.second.0", two)]


def test_nothing_recorded_is_an_error(net, sink):
    from firstdiff.tracer.selection import Selection

    with pytest.raises(CaptureError, match=r"Net: no activation matches --select 'no\.such' among"):
        capture_torch(
            net, None, {"x": torch.ones(1, 4)}, sink=sink, selection=Selection(("no.such",))
        )


def test_a_compiled_inside_is_reported_not_lost(net, sink):
    net.first = Compiled(net.first)
    capture = capture_torch(net, None, {"x": torch.ones(1, 4)}, sink=sink)
    assert "first._orig_mod: compiled, so nothing inside is seen" in capture.notes
    assert "first._orig_mod.up" in capture.never_fired
    assert sink["first", "output", "0"].value.shape == (1, 4)
    assert sink["second.up", "output"].value.shape == (1, 8)


# torch.jit is deprecated, and says so when it is used; models saved with it are still about.
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("place", ["inside", "root"])
def test_a_scripted_module_is_reported_not_lost(place, net, sink):
    linear = torch.jit.script(nn.Linear(4, 4))
    if place == "root":
        with pytest.raises(CaptureError, match="the model: compiled, so nothing inside is seen"):
            capture_torch(linear, None, {"input": torch.ones(1, 4)}, sink=sink)
        return
    net.first.down = nn.Sequential(nn.Linear(8, 4), linear)
    capture = capture_torch(net, None, {"x": torch.ones(1, 4)}, sink=sink)
    assert capture.never_fired == ("first.down.1",)
    assert capture.notes == ("first.down.1: compiled, so nothing inside is seen",)
    assert capture.output_check["bitwise"]


class OptimizedModule(nn.Module):
    """Has the name and the child of what torch.compile returns, without a compiler."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self._orig_mod = inner

    def forward(self, *args, **kwargs):
        return self._orig_mod(*args, **kwargs)


Compiled = OptimizedModule
