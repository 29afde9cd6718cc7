"""Seeded faults, captured for real: their cause is named, and a right port gets no explanation."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from firstdiff.diff import Diff
from firstdiff.models import FAULTS

NAMED = (
    *("rotary_interleaved", "gqa_tiled", "attention_unscaled", "attention_scale_percent"),
    *("softmax_bfloat16", "mask_weak", "padding_ignored", "mask_infinite", "residual_missing"),
    *("norm_one_plus", "norm_eps", "norm_bfloat16", "gelu_for_silu", "rope_theta_measured"),
    *("rope_llama3", "rotary_bfloat16", "q_bias_missing", "q_bias_permuted", "o_proj_transposed"),
    *("gate_up_swapped", "norms_swapped", "q_rotary_rows", "gate_one_sign", "gate_int8"),
    *("embedding_shifted", "head_untied"),
)
"""One or two of each kind; all of them are in `benchmarks/verdict.py`."""


@pytest.mark.parametrize("name", NAMED)
def test_the_cause_is_named(name: str, compared: Callable[..., Diff]) -> None:
    found = compared(name)
    assert found.explanation is not None
    assert found.explanation.cause == FAULTS[name].cause
    kind = f": {found.explanation.precision}" if found.explanation.precision else ""
    assert found.explanation.sentence.startswith(f"{FAULTS[name].cause}{kind}. ")
    if FAULTS[name].weights is None:
        assert found.cause == found.explanation.sentence
    else:  # the audit knows the parameter by name
        assert found.cause.startswith("weights: ")


def test_a_right_port_gets_no_explanation(compared: Callable[..., Diff]) -> None:
    found = compared(None)
    assert found.explanation is None
    assert found.cause == ""


def test_what_activations_cannot_tell_the_weights_do(compared: Callable[..., Diff]) -> None:
    found = compared("down_layers_swapped")
    assert found.explanation is not None
    assert found.explanation.cause is None
    assert found.cause.startswith("weights: layers_1.mlp.down_proj.kernel equals the reference's")


def test_what_the_traces_cannot_tell_is_not_named(compared: Callable[..., Diff]) -> None:
    found = compared("dropout_active")
    assert found.explanation is not None
    assert found.explanation.cause is None
    assert found.cause == ""
    assert found.explanation.sentence.startswith("not certain. ")


@pytest.mark.parametrize(
    ("port", "name"),
    [
        *((port, "rotary_interleaved") for port in ("nnx", "haiku")),
        ("equinox", "rotary_tables_repeated"),  # a table of its own for each row
        *(("function", name) for name in ("norm_skipped", "norm_bfloat16", "embedding_scaled")),
    ],
)
def test_other_frameworks(port: str, name: str, compared: Callable[..., Diff]) -> None:
    found = compared(name, port)
    assert found.first is not None
    assert (found.first.name, found.first.key.site) == (FAULTS[name].activation, FAULTS[name].site)
    assert found.explanation is not None
    assert found.explanation.cause == FAULTS[name].cause


@pytest.mark.parametrize("name", ["rotary_interleaved", "heads_merged_channels_first"])
def test_a_bfloat16_port_of_a_float32_reference(name: str, compared: Callable[..., Diff]) -> None:
    """The reference's attention is recognised by its own tables, not by the port's rounded ones."""
    found = compared(name, dtype="bfloat16")
    assert found.explanation is not None
    assert found.explanation.cause == FAULTS[name].cause


def test_the_evidence_says_where_and_what(compared: Callable[..., Diff]) -> None:
    found = compared("rotary_interleaved").explanation
    assert found is not None
    assert found.evidence.startswith("The first real token agrees, every later one is wrong")
    assert (
        "heads alike. Rotating q and k with interleaved pairs, not half-split ones brings the error from"
        in (found.evidence)
    )
    assert found.before is not None
    assert found.left is not None
    assert found.left < 3 < found.before


def test_the_structure_has_figures(compared: Callable[..., Diff]) -> None:
    found = compared("gqa_tiled").explanation
    assert found is not None
    assert found.structure is not None
    assert len(found.structure.by_head) == 4
    assert found.structure.by_head[0] < 1e-5 < found.structure.by_head[1]
    assert "only heads 1, 2 are wrong" in found.structure.words
    assert len(found.structure.by_position) == 48
    assert len(found.structure.by_row) == 2
    damaged = compared("gate_one_sign").explanation
    assert damaged is not None
    assert damaged.structure is not None
    assert damaged.structure.wrong_channels == (7,)
