"""Each way in which loading goes wrong, and the one line that says so."""

from __future__ import annotations

from collections.abc import Callable

import ml_dtypes
import numpy as np
import pytest

from firstdiff.diff.weights.audit import Audit
from firstdiff.diff.weights.report import lines

Values = dict[str, np.ndarray]
Run = Callable[..., Audit]

Q0 = "layers_0.self_attn.q_proj.kernel"


def only_line(audit: Audit) -> str:
    """The one line below the headline that says WRONG."""
    wrong = [line for line in lines(audit) if line.startswith("  WRONG")]
    assert len(wrong) == 1, wrong
    return wrong[0].removeprefix("  WRONG  ")


def test_a_right_port(audited: Run) -> None:
    audit = audited()
    assert lines(audit) == ["weights  38/38 equal (21 transposed)"]
    assert audit.exit_code == 0


def test_a_square_kernel_that_was_not_transposed(audited: Run, port: Values) -> None:
    port[Q0] = np.ascontiguousarray(port[Q0].T)
    audit = audited()
    assert only_line(audit) == (
        f"{Q0} is not transposed: a linen kernel is [in, out], the reference's weight [out, in]: transpose it"
    )
    assert audit.exit_code == 1
    assert audit.right == 37


def test_an_equinox_weight_must_not_be_transposed(
    audited: Run, port: Values, checkpoint: Values
) -> None:
    port.clear()
    port.update({name.removeprefix("model."): value.copy() for name, value in checkpoint.items()})
    assert audited("equinox").exit_code == 0
    port["layers.0.self_attn.q_proj.weight"] = np.ascontiguousarray(
        port["layers.0.self_attn.q_proj.weight"].T
    )
    (verdict,) = audited("equinox").wrong
    assert (verdict.finding, verdict.remedy) == ("wrongly transposed", "load it untransposed")


def test_a_plain_tree_is_judged_by_what_its_other_matrices_do(audited: Run, port: Values) -> None:
    renamed = {name.replace("kernel", "table"): value for name, value in port.items()}
    port.clear()
    port.update(renamed)
    name = Q0.replace("kernel", "table")
    port[name] = np.ascontiguousarray(port[name].T)
    (verdict,) = audited("").wrong
    assert (verdict.finding, verdict.port) == ("not transposed", name)


def test_gate_and_up_exchanged_in_every_layer(audited: Run, port: Values) -> None:
    for layer in range(3):
        gate, up = (f"layers_{layer}.mlp.{role}_proj.kernel" for role in ("gate", "up"))
        port[gate], port[up] = port[up], port[gate]
    line = only_line(audited())
    assert (
        "layers_0.mlp.up_proj.kernel equals the reference's model.layers.0.mlp.gate_proj.weight"
        in line
    )
    assert "(and 5 more like it)" in line


def test_names_that_lie_everywhere_alike_are_no_fault(audited: Run, port: Values) -> None:
    names = {"gate_proj": "up", "up_proj": "gate"}
    renamed = {}
    for name, value in port.items():
        for ours, theirs in names.items():
            name = name.replace(f".{ours}.", f".{theirs}.")
        renamed[name] = value
    port.clear()
    port.update(renamed)
    assert audited().exit_code == 0


def test_a_missing_bias(audited: Run, port: Values) -> None:
    for layer in range(3):
        del port[f"layers_{layer}.self_attn.q_proj.bias"]
    line = only_line(audited())
    assert line.startswith("model.layers.0.self_attn.q_proj.bias is missing")
    assert "(and 2 more like it)" in line


def test_a_bias_that_was_never_loaded(audited: Run, port: Values) -> None:
    port["layers_1.self_attn.q_proj.bias"][:] = 0
    assert only_line(audited()).startswith("layers_1.self_attn.q_proj.bias was never loaded: all 0")


def test_a_kernel_at_its_initial_value(audited: Run, port: Values) -> None:
    name = "layers_1.mlp.down_proj.kernel"
    port[name] = (np.random.default_rng(5).normal(size=(48, 32)) / np.sqrt(48)).astype(np.float32)
    (verdict,) = audited().wrong
    assert (verdict.finding, verdict.port) == ("never loaded", name)
    assert "1/sqrt(48)" in verdict.words


def test_an_untied_head(audited: Run, port: Values) -> None:
    port["lm_head.kernel"] = np.random.default_rng(1).normal(0, 0.02, (32, 96)).astype(np.float32)
    line = only_line(audited())
    assert line.startswith("lm_head.kernel is not tied: the reference has no head of its own")
    assert "model.embed_tokens.weight" in line


def test_a_tied_head_kept_as_a_second_copy_is_right(
    audited: Run, port: Values, checkpoint: Values
) -> None:
    port["lm_head.kernel"] = np.ascontiguousarray(checkpoint["model.embed_tokens.weight"].T)
    assert audited().exit_code == 0


def test_a_head_of_its_own_that_the_port_ties(audited: Run, checkpoint: Values) -> None:
    head = np.random.default_rng(2).normal(0, 0.1, (96, 32)).astype(np.float32)
    (verdict,) = audited(reference={**checkpoint, "lm_head.weight": head}).wrong
    assert (verdict.finding, verdict.reference) == ("missing", "lm_head.weight")
    assert "tied to its embedding?" in verdict.words


def test_two_layers_exchanged(audited: Run, port: Values) -> None:
    for name in [n for n in port if n.startswith("layers_0.")]:
        other = name.replace("layers_0", "layers_2")
        port[name], port[other] = port[other], port[name]
    assert "(and 23 more of these layers)" in only_line(audited())


def test_a_stack_whose_loop_overwrote_its_key(audited: Run, port: Values) -> None:
    for name in [n for n in port if n.startswith(("layers_0.", "layers_1."))]:
        port[name] = port[f"layers_2{name[len('layers_0') :]}"].copy()
    audit = audited()
    assert {v.finding for v in audit.wrong} == {"duplicated"}
    assert len(audit.wrong) == 24


def test_reshaped_where_a_transpose_is_due(audited: Run, port: Values, checkpoint: Values) -> None:
    name = "layers_1.mlp.down_proj.kernel"
    port[name] = checkpoint["model.layers.1.mlp.down_proj.weight"].reshape(48, 32)
    (verdict,) = audited().wrong
    assert (verdict.finding, verdict.port) == ("not transposed", name)


def test_one_wrong_element(audited: Run, port: Values) -> None:
    port["layers_1.mlp.down_proj.kernel"][3, 4] += 1
    (verdict,) = audited().wrong
    assert verdict.finding == "partly"
    assert "column 3 of 48 differs" in verdict.words


def test_an_unused_bias(audited: Run, port: Values) -> None:
    port["layers_0.self_attn.o_proj.bias"] = np.full(32, 0.5, np.float32)
    (verdict,) = audited().wrong
    assert (verdict.finding, verdict.port) == ("unused", "layers_0.self_attn.o_proj.bias")
    port["layers_0.self_attn.o_proj.bias"][:] = 0
    audit = audited()
    assert audit.exit_code == 0
    assert audit.notes[0].finding == "unused"


def test_heads_in_another_order_are_wrong(audited: Run, port: Values) -> None:
    port[Q0] = np.ascontiguousarray(port[Q0].reshape(32, 4, 8)[:, [2, 0, 3, 1]].reshape(32, 32))
    (verdict,) = audited().wrong
    assert verdict.finding == "reordered"
    assert "blocks of 8" in verdict.words


def test_one_layer_scaled_and_all_layers_scaled(audited: Run, port: Values) -> None:
    factor = np.float32(8**-0.5)
    port[Q0] = port[Q0] * factor
    (verdict,) = audited().wrong
    assert verdict.finding == "scaled"
    assert "0.353553 = 1/sqrt(8)" in verdict.words
    for layer in (1, 2):
        port[f"layers_{layer}.self_attn.q_proj.kernel"] *= factor
    assert audited().exit_code == 0


def test_bfloat16_is_equal_after_rounding(audited: Run, port: Values) -> None:
    for name in port:
        port[name] = port[name].astype(ml_dtypes.bfloat16)
    assert lines(audited()) == ["weights  38/38 equal (21 transposed)"]


def test_quantised_weights_are_said_to_be_so(audited: Run, port: Values) -> None:
    for layer in range(3):
        name = f"layers_{layer}.mlp.gate_proj.kernel"
        step = np.abs(port[name]).max(axis=0, keepdims=True) / 127
        port[name] = np.round(port[name] / step).astype(np.int8)
    audit = audited()
    assert audit.exit_code == 0
    assert {v.finding for v in audit.notes} == {"quantised"}
    assert "int8, one scale per column of the port" in audit.notes[0].words


def test_two_faults_at_once(audited: Run, port: Values) -> None:
    port[Q0] = np.ascontiguousarray(port[Q0].T)
    del port["layers_2.self_attn.v_proj.bias"]
    assert {v.finding for v in audited().wrong} == {"not transposed", "missing"}


@pytest.mark.parametrize("axis", [0, 1])
def test_one_layer_of_a_stack_was_never_written(audited: Run, port: Values, axis: int) -> None:
    names = [n.removeprefix("layers_0.") for n in port if n.startswith("layers_0.")]
    for name in names:
        port[f"layers.{name}"] = np.stack(
            [port.pop(f"layers_{i}.{name}") for i in range(3)], axis=axis
        )
    np.moveaxis(port["layers.self_attn.o_proj.kernel"], axis, 0)[1] = 0
    (verdict,) = audited().wrong
    assert (verdict.finding, verdict.reference) == (
        "never loaded",
        "model.layers.1.self_attn.o_proj.weight",
    )


def test_results_are_data(audited: Run, port: Values) -> None:
    port[Q0] = np.ascontiguousarray(port[Q0].T)
    audit = audited()
    frame = audit.frame()
    assert len(frame) == 38
    assert list(frame.loc[frame.status == "wrong", "port"]) == [Q0]
    assert '"finding": "not transposed"' in audit.to_json()
