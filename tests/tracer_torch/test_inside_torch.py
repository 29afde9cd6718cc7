"""Functions and operations inside the modules of a torch model."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers.models.qwen2 import modeling_qwen2

from firstdiff.tracer.selection import Selection
from firstdiff.tracer.torch import capture_torch
from firstdiff.traces.errors import SubjectError
from firstdiff.traces.schema import Key

ATTENTION = "model.layers.0.self_attn"


def halved(x, *, by=2.0):
    """A function of the user's own file."""
    return x / by


class Halving(nn.Module):
    """Calls a function of this file, twice, the second time inside a method."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(3, 3)

    def forward(self, x):
        return self.twice(halved(self.line(x)))

    def twice(self, x):
        return halved(x, by=4.0) * 2


class Failing(nn.Module):
    """Raises what it is told to, from inside a function of the model's own."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.line, self.error = nn.Linear(3, 3), error

    def forward(self, x):
        return self.failing(self.line(x))

    def failing(self, x):
        del x
        raise self.error


def recorded(sink, model, inputs, level, **options):
    done = capture_torch(
        model, None, inputs, sink=sink, selection=Selection(level=level, **options)
    )
    return done, {e.key: e for e in sink.events}


def test_functions_of_the_modeling_file_are_recorded_where_they_ran(sink, tiny_qwen2, tokens):
    done, events = recorded(sink, tiny_qwen2, tokens, "function")
    method = "apply_rotary_pos_emb()"
    q, k, cos, sin = (
        torch.tensor(events[Key(ATTENTION, "input", leaf, method)].value)
        for leaf in ("q", "k", "cos", "sin")
    )
    expected = modeling_qwen2.apply_rotary_pos_emb(q, k, cos, sin)
    for leaf, value in zip(("0", "1"), expected, strict=True):
        found = events[Key(ATTENTION, "output", leaf, method)]
        assert torch.equal(torch.tensor(found.value), value)
        assert found.class_name == "Qwen2Attention.forward"
    calls = [key.call for key in events if key.path == ATTENTION and key.method == "rotate_half()"]
    assert sorted(set(calls)) == [0, 1]
    assert done.output_check["bitwise"]


def test_a_function_has_the_line_of_its_definition_and_of_its_call(sink, tiny_qwen2, tokens):
    done, events = recorded(sink, tiny_qwen2, tokens, "function")
    source = Path(modeling_qwen2.__file__).read_text().splitlines()
    file, _, line = done.functions["rotate_half()"].rpartition(":")
    assert Path(file) == Path(modeling_qwen2.__file__)
    assert source[int(line) - 1].startswith("def rotate_half")
    call = events[Key(ATTENTION, "output", "", "rotate_half()")].source.rpartition(":")[2]
    assert "rotate_half(q)" in source[int(call) - 1]


def test_the_mask_function_of_the_package_is_seen_without_what_it_calls(sink, tiny_qwen2, tokens):
    done, events = recorded(sink, tiny_qwen2, tokens, "function")
    assert Key("model", "output", "", "create_causal_mask()") in events
    assert not any(
        "masking_utils" in place for name, place in done.functions.items() if "create" not in name
    )


def test_modules_are_recorded_as_without_a_level(sink, tiny_qwen2, tokens):
    recorded(sink, tiny_qwen2, tokens, "op")
    modules = [e.key for e in sink.events if e.key.level == "module"]
    plain = type(sink)()
    recorded(plain, tiny_qwen2, tokens, "module")
    assert modules == plain.names()


def test_of_sdpa_one_function_is_seen_and_one_operation(sink, tiny_qwen2, tokens):
    before = tiny_qwen2.config._attn_implementation
    tiny_qwen2.set_attn_implementation("sdpa")
    try:
        _, events = recorded(sink, tiny_qwen2, tokens, "op", inside=(ATTENTION,))
    finally:
        tiny_qwen2.set_attn_implementation(before)
    methods = {key.method for key in events if key.path == ATTENTION}
    assert "sdpa_attention_forward()" in methods
    assert "eager_attention_forward()" not in methods
    assert any("scaled_dot_product" in method for method in methods if "::" in method)
    assert "aten::bmm" not in methods


def test_operations_have_the_line_of_the_models_own_code(sink, tiny_qwen2, tokens):
    _, events = recorded(sink, tiny_qwen2, tokens, "op", inside=(ATTENTION,))
    source = Path(modeling_qwen2.__file__).read_text().splitlines()
    softmax = events[Key(ATTENTION, "output", "", "aten::_softmax")]
    assert "softmax" in source[int(softmax.source.rpartition(":")[2]) - 1]
    assert softmax.class_name == "eager_attention_forward"
    assert {key.path for key in events if key.level == "op"} == {ATTENTION}


def test_parameters_and_what_the_recorder_does_are_no_operations(sink, net):
    _, events = recorded(sink, net, {"x": torch.ones(1, 4)}, "op")
    ops = [key for key in events if key.level == "op" and key.path == "first.up"]
    assert [key.method for key in ops] == ["aten::addmm"]


def test_functions_of_a_users_own_file_and_methods_of_a_module(sink):
    done, events = recorded(sink, Halving(), {"x": torch.ones(2, 3)}, "function")
    methods = [key.method for key in events if key.level == "function" and key.site == "output"]
    assert methods == ["halved()", "halved()", "Halving.twice()"]
    assert events[Key("", "input", "by", "halved()", 1)].value == 4.0
    assert events[Key("", "output", "", "halved()", 1)].class_name == "Halving.twice"
    assert done.functions["halved()"].startswith(__file__)


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt()])
def test_no_profiler_and_no_hook_is_left_after_an_error(sink, error):
    model = Failing(error)
    expected = SubjectError if isinstance(error, Exception) else KeyboardInterrupt
    with pytest.raises(expected):
        recorded(sink, model, {"x": torch.ones(1, 3)}, "op")
    assert sys.getprofile() is None
    assert not model.line._forward_hooks
    assert torch.utils._python_dispatch._get_current_dispatch_mode() is None


def test_a_profiler_that_was_there_is_told_and_set_again(sink):
    told = []

    def profiler(frame, event, _arg):
        told.append((frame.f_code.co_name, event))

    sys.setprofile(profiler)
    try:
        recorded(sink, Halving(), {"x": torch.ones(2, 3)}, "function")
        assert sys.getprofile() is profiler
    finally:
        sys.setprofile(None)
    assert ("halved", "call") in told
