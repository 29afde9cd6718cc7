"""A capture leaves nothing behind, and says what it could not do."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
import torch
from torch import nn

from firstdiff.tracer.torch import capture_torch, recording
from firstdiff.traces.errors import CaptureError, SubjectError


def hooks_of(model: nn.Module) -> int:
    return sum(
        len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._forward_hooks_with_kwargs)
        for m in model.modules()
    )


def state_of(model: nn.Module) -> dict[str, bytes]:
    return {k: v.numpy().tobytes() for k, v in model.state_dict().items()}


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, SystemExit])
def test_hooks_are_gone_after_any_exception(error, net, sink):
    def stop(event):
        sink(event)
        if len(sink.events) == 5:
            raise error

    with pytest.raises((error, SubjectError)), recording(net, stop):
        net(torch.randn(2, 4))
    assert hooks_of(net) == 0


def test_the_users_hooks_stay_and_act_first(net, sink):
    handle = net.first.register_forward_hook(lambda _module, _args, out: (out[0] * 0, out[1]))
    capture_torch(net, None, {"x": torch.randn(2, 4)}, sink=sink)
    assert not sink["first", "output", "0"].value.any()
    assert len(net.first._forward_hooks) == 1
    handle.remove()
    assert hooks_of(net) == 0


def test_no_tensor_is_kept_alive(net, sink):
    with torch.no_grad(), recording(net, sink):
        x = torch.randn(2, 4)
        reference = weakref.ref(x)
        net(x)
        del x
        gc.collect()
        assert reference() is None


def test_model_that_raises_is_a_subject_error(net, sink):
    before = state_of(net)
    with pytest.raises(SubjectError) as caught:
        capture_torch(net, None, {"x": torch.randn(2, 5)}, sink=sink)
    assert "Net: its forward raised RuntimeError" in str(caught.value)
    assert "x float32[2, 5]" in str(caught.value)
    assert hooks_of(net) == 0
    assert state_of(net) == before


def test_a_sink_failure_is_not_swallowed_by_the_model():
    class Swallowing(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Identity()

        def forward(self, x):
            try:
                return self.inner(x)
            except CaptureError:
                return x

    def full(event):
        if event.key.path == "inner":
            raise CaptureError("the disk is full")

    with pytest.raises(CaptureError, match="the disk is full"):
        capture_torch(Swallowing(), None, {"x": torch.ones(2)}, sink=full)


# torch announces the end of its quantised tensors when one is made; old models still have them.
@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")
def test_tensors_without_values_are_noted(sink):
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Identity()

        def forward(self, x):
            self.inner(x.to_sparse())
            self.inner(x.to("meta"))
            self.inner(torch.quantize_per_tensor(x, 0.1, 0, torch.qint8))
            return x

    capture = capture_torch(Odd(), None, {"x": torch.eye(2)}, sink=sink)
    assert capture.notes == (
        "inner input input: not recorded, sparse tensor (torch.sparse_coo)",
        "inner output: not recorded, sparse tensor (torch.sparse_coo)",
        "inner input input: not recorded, meta tensor (no values)",
        "inner output: not recorded, meta tensor (no values)",
        "inner input input: not recorded, quantised tensor",
        "inner output: not recorded, quantised tensor",
    )
    assert capture.never_fired == ("inner",)


def test_an_unknown_container_is_noted(sink):
    class Box:
        def __init__(self, tensor):
            self.tensor = tensor

    class Boxing(nn.Module):
        def forward(self, x):
            return {"box": Box(x), "x": x}

    capture = capture_torch(Boxing(), None, {"x": torch.ones(2)}, sink=sink)
    assert capture.notes == ("the model output box: not recorded, Box is no known container",)


def test_inference_mode_and_gradients(net, sink):
    x = torch.randn(2, 4, requires_grad=True)
    with recording(net, sink):
        net(x).sum().backward()
        with torch.inference_mode():
            net(x)
    assert x.grad is not None
    both = [sink["", "output", "", 0, step].value for step in (0, 1)]
    assert np.array_equal(*both)


class TestVerify:
    def test_equal(self, net, sink):
        capture = capture_torch(net, None, {"x": torch.randn(2, 4)}, sink=sink)
        assert capture.output_check == {"checked": True, "bitwise": True, "max_abs": 0.0}

    def test_not_asked(self, net, sink):
        capture = capture_torch(net, None, {"x": torch.ones(2, 4)}, sink=sink, verify=False)
        assert capture.output_check == {"checked": False}

    def test_dropout_gets_the_same_random_numbers(self, sink):
        model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5))
        model.train()
        torch.manual_seed(3)
        expected_next = (model(torch.ones(2, 4)), torch.rand(2))[1]
        torch.manual_seed(3)
        capture = capture_torch(model, None, {"input": torch.ones(2, 4)}, sink=sink)
        assert capture.output_check["bitwise"]
        assert torch.equal(torch.rand(2), expected_next)
        assert model.training
        assert capture.notes == (
            "1 is in training mode: its values are random; call model.eval() first",
        )

    def test_buffers_are_as_after_one_run(self, sink):
        model, twin = nn.BatchNorm1d(3).train(), nn.BatchNorm1d(3).train()
        x = torch.randn(4, 3)
        twin(x)
        capture = capture_torch(model, None, {"input": x}, sink=sink)
        assert capture.output_check["bitwise"]
        assert state_of(model) == state_of(twin)

    def test_model_that_changes_its_arguments(self, sink):
        class Consuming(nn.Module):
            def forward(self, x, seen):
                seen.append(len(seen))
                return x.add_(len(seen))

        x = torch.zeros(2)
        capture = capture_torch(Consuming(), None, {"x": x, "seen": []}, sink=sink)
        assert capture.output_check["bitwise"]
        assert x.tolist() == [1.0, 1.0]

    def test_noise_is_told_from_influence(self, sink):
        class Noisy(nn.Module):
            def forward(self, x):
                return x + float(np.random.default_rng().random())

        capture = capture_torch(Noisy(), None, {"x": torch.zeros(2)}, sink=sink)
        assert capture.output_check["bitwise"] is False
        assert capture.output_check["deterministic"] is False
        assert 0 < capture.output_check["max_abs"] < 1
        assert "not deterministic" in capture.notes[0]

    def test_influence_is_measured(self, sink):
        class Shy(nn.Module):
            def __init__(self):
                super().__init__()
                self.inner = nn.Identity()

            def forward(self, x):
                return self.inner(x) + (0.25 if self.inner._forward_hooks else 0.0)

        capture = capture_torch(Shy(), None, {"x": torch.zeros(2)}, sink=sink)
        assert capture.output_check == {
            "checked": True,
            "bitwise": False,
            "max_abs": 0.25,
            "deterministic": True,
        }
        assert capture.notes == ()
