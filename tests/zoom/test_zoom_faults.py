"""Zoom names the wrong function on both sides, and nothing in a right port."""

from __future__ import annotations

import pytest

from firstdiff.models.faults import FAULTS

ATTENTION = "layers.0.self_attn"


def functions(result):
    found = {spot.side: spot.function for spot in result.spots}
    return found.get("reference"), found.get("port")


@pytest.mark.parametrize(
    "name",
    [
        "rotary_interleaved",  # a function inside a function
        "rotary_missing",  # right values, handed on instead of the rotated ones
        "gqa_tiled",  # the right numbers in another order
        "attention_unscaled",  # a plain number
        "softmax_over_queries",  # a function that the reference does not have
        "heads_split_by_reshape",  # a layout
        "residual_missing",  # code of a module, no function in the reference
    ],
)
def test_the_wrong_function_is_named_on_both_sides(zoomed, name):
    fault = FAULTS[name]
    result = zoomed(name, fault.module or ".")
    assert functions(result) == (fault.function, fault.port_function)
    assert result.exit_code == 1


@pytest.mark.parametrize("module", [ATTENTION, "."])
def test_a_right_port_is_not_blamed(zoomed, module):
    result = zoomed(None, module)
    assert result.spots == ()
    assert result.exit_code == 0
    assert "agrees with the reference" in result.summary


def test_without_a_module_it_is_where_the_traces_first_diverge(zoomed):
    result = zoomed("rotary_interleaved", None, "nnx")
    assert result.module == ATTENTION
    assert functions(result) == ("rotate_half", "rotate_half_interleaved")


def test_scanned_layers_are_looked_into(zoomed):
    result = zoomed("gqa_tiled", "layers.1.self_attn", scan=True)
    assert functions(result) == ("repeat_kv", "repeat_kv_tiled")


def test_a_trace_of_functions_serves_instead_of_the_model(zoomed):
    result = zoomed("rotary_exchanged", ATTENTION, trace=True)
    assert functions(result) == ("apply_rotary_pos_emb", "apply_exchanged")
    assert any("no operations" in note for note in result.notes)


def test_the_answer_names_lines_on_both_sides(zoomed):
    result = zoomed("rotary_interleaved", ATTENTION)
    ours, theirs = result.spots
    assert ours.defined.rpartition("/")[2].startswith("modeling_qwen2.py:")
    assert theirs.defined.rpartition("/")[2].startswith("wrong.py:")
    assert theirs.called.rpartition("/")[2].startswith("ops.py:")
    assert theirs.line.rpartition("/")[2].startswith("wrong.py:")
    assert result.tap == "o_proj input"
    assert "(modeling_qwen2.py:97) has no equal in the port. In the port it goes" in result.summary


def test_what_resembles_the_value_most_is_named(zoomed):
    result = zoomed("gqa_tiled", ATTENTION, "haiku")
    assert "; its nearest is repeat_kv_tiled (wrong.py:17), equal in heads 0, 3 of 4" in (
        result.summary
    )


def test_a_port_of_plain_functions_is_looked_into(zoomed):
    result = zoomed("heads_not_swapped", ATTENTION, "function")
    assert functions(result) == ("Qwen2Attention.forward", "merge_heads_without_swap")
    assert zoomed(None, ATTENTION, "function").spots == ()


def test_a_right_value_that_is_not_handed_on_is_told(zoomed):
    result = zoomed("causality_missing", ".")
    assert functions(result) == ("create_causal_mask", "causal_mask_without_causality")
    assert "is computed in the port too (causal_mask (ops.py:" in result.summary


@pytest.mark.parametrize(
    ("name", "framework"),
    [
        ("residual_missing", "equinox"),  # vmapped: the rotary tables are there once for each row
        ("rotary_exchanged", "equinox"),  # cos and sin exchanged, both repeated
        ("padding_ignored", "linen"),  # an argument that is kept back
        ("padding_ignored", "function"),  # inside a function that holds the whole model
    ],
)
def test_ports_of_other_build(zoomed, name, framework):
    fault = FAULTS[name]
    result = zoomed(name, fault.module or ".", framework)
    assert functions(result) == (fault.function, fault.port_function)


@pytest.mark.parametrize("module", ["layers.0", "."])
def test_a_right_vmapped_port_is_not_blamed(zoomed, module):
    assert zoomed(None, module, "equinox").spots == ()


def test_a_wrong_number_is_said_with_both_numbers(zoomed):
    result = zoomed("attention_unscaled", ATTENTION, "function")
    assert functions(result) == ("Qwen2Attention.forward", "attention_scaling_none")
    assert result.numbers == (0.25, 1.0)
    assert "(modeling_qwen2.py:212) is 0.25, in the port 1." in result.summary


def test_a_keras_port_is_looked_into(zoomed):
    result = zoomed("rotary_interleaved", ATTENTION, "keras")
    assert functions(result) == ("rotate_half", "rotate_half_interleaved")
    names = {row.name for row in result.rows if row.side == "port" and row.level == "function"}
    assert "Qwen2Attention.call" not in names
