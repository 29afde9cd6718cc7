"""Two traces in, the first divergence out: a small transformer, right and with faults, in float32 and bfloat16."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest

import firstdiff
from firstdiff.diff import Diff, diff
from firstdiff.traces import open_trace
from firstdiff.traces.errors import InputMismatch, OptionError

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Maker

LAYERS = 3
AFTER_QKV = "after q_proj, k_proj, v_proj (agree), before o_proj (its input differs)."
FAULTS = {
    "rope": f"inside layers.0.self_attn, {AFTER_QKV}",
    "late rope": f"inside layers.1.self_attn, {AFTER_QKV}",
    "bias": "inside layers.0.self_attn.v_proj: its input agrees, its result differs.",
    "gelu": "inside layers.1.mlp.act_fn: its input agrees, its result differs.",
    "residual": "inside layers.1, after self_attn, mlp (agree): its input agrees, its result differs.",
    "nan": "inside layers.1.self_attn, after q_proj, k_proj, v_proj (agree), before o_proj (its input is the first "
    "that is not finite: port has 1 NaN; reference none, first at [1,3,5]).",
}
PRECISE = {"eps": "inside layers.1.input_layernorm: its input agrees, its result differs."}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_right_port_agrees(maker: Maker, dtype: str) -> None:
    result = diff(maker.reference(dtype), maker.port(dtype=dtype))
    assert result.exit_code == 0
    assert result.finding is None
    assert result.summary.startswith("The port agrees with the reference: 97 activations, ")
    assert result.counts.agree == result.counts.pairs == 97
    assert (result.dtype, result.floor) == (dtype, "recorded")


@pytest.mark.parametrize(
    ("dtype", "fault"),
    [(dtype, fault) for dtype in ("float32", "bfloat16") for fault in FAULTS]
    + [("float32", "eps")],
)
def test_each_fault_is_found_where_it_is(maker: Maker, dtype: str, fault: str) -> None:
    result = diff(maker.reference(dtype), maker.port(fault, dtype))
    assert result.exit_code == 1
    assert result.finding is not None
    assert result.finding.sentence == (FAULTS | PRECISE)[fault]
    assert result.summary == f"First divergence: {result.finding.sentence}"


@pytest.mark.parametrize("fault", ["rope", "bias", "gelu", "residual"])
def test_digests_alone_place_a_fault(maker: Maker, fault: str) -> None:
    reference = maker.reference(digest_only=True)
    assert diff(reference, maker.port(digest_only=True)).exit_code == 0
    result = diff(reference, maker.port(fault, digest_only=True))
    assert result.finding is not None
    assert result.finding.sentence == FAULTS[fault]
    assert "Errors are estimated from digests; padded rows could not be left out." in result.notes


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_layout_inside_the_attention_heals(maker: Maker, dtype: str) -> None:
    result = diff(maker.reference(dtype), maker.port("permuted q and k", dtype))
    assert result.finding is None
    assert result.summary.endswith("; 6 differ without effect.")
    healed = {row.name: row.healed for row in result.rows if row.healed}
    assert healed["layers.0.self_attn.q_proj"] == "model.layers.0.self_attn"
    assert len(healed) == 2 * LAYERS


def test_a_healed_divergence_hides_no_later_fault(maker: Maker) -> None:
    taps = maker.taps(fault="permuted q and k", other_order=True)
    wrong = maker.taps(fault="gelu", other_order=True)
    keep = ("q_proj", "k_proj")
    mixed = [
        a if a.path.endswith(keep) and "layers.0" in a.path else b
        for a, b in zip(taps, wrong, strict=True)
    ]
    result = diff(maker.reference(), maker.write("mixed.h5", mixed, as_port=True))
    assert result.finding is not None
    assert result.finding.sentence == FAULTS["gelu"]
    assert result.counts.healed == 2


def test_positions_that_differ_without_effect(maker: Maker) -> None:
    taps = maker.taps(other_order=True)
    for tap in taps:
        if tap.leaf == "position_ids":
            tap.value = tap.value + 1
    result = diff(maker.reference(), maker.write("p.h5", taps, as_port=True))
    assert result.finding is None
    assert [row.name for row in result.rows if row.healed] == ["rotary_emb"]


def test_positions_that_differ_first_are_named(maker: Maker) -> None:
    taps = maker.taps("rope", other_order=True)
    rotary = maker.taps(other_order=True)
    for tap, other in zip(taps, rotary, strict=True):
        if tap.leaf == "position_ids":
            tap.value = tap.value + 1
        if tap.path == "model.rotary_emb" and tap.site == "output":
            tap.value = other.value * np.float32(1.1)
    result = diff(maker.reference(), maker.write("p.h5", taps, as_port=True))
    assert result.finding is not None
    assert result.finding.kind == "index"
    assert result.finding.sentence == (
        "inside the model, after embed_tokens (agrees), before rotary_emb (its input position_ids differs, and is "
        "compared exactly: 100.00% of the elements differ)."
    )


def test_the_right_value_passed_to_the_wrong_place(maker: Maker) -> None:
    taps = maker.taps("gelu", other_order=True)
    for number, tap in enumerate(taps):
        if tap.path.endswith("layers.1.mlp.act_fn") and tap.site == "input":
            tap.value, tap.same_as = taps[number - 2].value[..., :1] * np.ones(64, np.float32), None
    result = diff(maker.reference(), maker.write("w.h5", taps, as_port=True))
    assert result.finding is not None
    assert result.finding.where == "wiring"
    assert result.finding.sentence == (
        "inside layers.1.mlp, where act_fn is called: the reference passes on the result of gate_proj, which agrees, "
        "the port something else."
    )


def test_a_stack_is_no_place(maker: Maker) -> None:
    taps = maker.taps("rope", other_order=True)
    for tap in taps:
        if tap.path == "model.layers.0.input_layernorm" or (
            tap.path == "model.layers.0" and tap.site == "input"
        ):
            tap.value, tap.same_as = tap.value * np.float32(1.5), None
    result = diff(maker.reference(), maker.write("w.h5", taps, as_port=True))
    assert result.finding is not None
    assert result.finding.sentence == (
        "inside the model, where layers.0 is called: the reference passes on the result of embed_tokens, "
        "which agrees, the port something else."
    )


def test_a_value_passed_on_is_one_finding(maker: Maker) -> None:
    result = diff(maker.reference(), maker.port("gelu"))
    assert result.first is not None
    repeated = [row for row in result.rows if row.duplicate_of is not None]
    assert repeated
    assert all(row.verdict.bad and not row.diverges for row in repeated)


def test_padded_rows_are_no_divergence(maker: Maker) -> None:
    mask = np.ones(maker.ids.shape, np.int64)
    mask[1, :4] = 0
    inputs = {"input_ids": maker.ids, "attention_mask": mask}
    reference = maker.write(
        "ref.h5", maker.taps(mask=mask), inputs=inputs, floors=maker.floors("float32", mask)
    )
    taps = maker.taps(mask=mask, other_order=True)
    for tap in taps:
        if tap.value.dtype == np.float32:
            tap.value = tap.value.copy()
            tap.value[1, :4] += 1
            tap.same_as = None
    port = maker.write("port.h5", taps, inputs=inputs, as_port=True)
    assert diff(reference, port).exit_code == 0
    for tap in taps[3:]:
        if tap.value.dtype == np.float32 and tap.path != "model.rotary_emb":
            tap.value[1, 2] = np.nan
    result = diff(reference, maker.write("port.h5", taps, inputs=inputs, as_port=True))
    assert result.finding is not None
    assert result.finding.kind == "non-finite"


def test_missing_and_extra_are_rows_with_a_candidate(maker: Maker) -> None:
    taps = maker.taps(other_order=True)

    def rename(path: str) -> str:
        return maker.port_path(path).replace("act_fn", "swish").replace("rotary_emb", "frequencies")

    kept = [tap for tap in taps if not tap.path.endswith("post_attention_layernorm")]
    index = {id(tap): n for n, tap in enumerate(kept)}
    for tap in kept:
        tap.same_as = None if tap.same_as is None else index.get(id(taps[tap.same_as]))
    result = diff(maker.reference(), maker.write("p.h5", kept, rename=rename, as_port=True))
    assert result.finding is None
    missing = {row.name for row in result.rows if row.verdict.kind == "missing"}
    assert {f"layers.{n}.post_attention_layernorm" for n in range(LAYERS)} <= missing
    assert result.counts.missing == sum(row.verdict.kind == "missing" for row in result.rows) > 0


def test_without_a_floor_a_stand_in_is_named(maker: Maker) -> None:
    result = diff(maker.reference(floors={}), maker.port("bias"))
    assert result.floor == "no floor recorded: 85 u stand-in for float32"
    assert any(note.endswith("85 u stand-in for float32.") for note in result.notes)
    assert result.finding is not None
    assert result.finding.sentence == FAULTS["bias"]


def test_a_bfloat16_port_of_a_float32_reference(maker: Maker) -> None:
    reference = maker.reference(floors=maker.floors("bfloat16"))
    assert diff(reference, maker.port(dtype="bfloat16")).exit_code == 0
    assert diff(reference, maker.port("rope", dtype="bfloat16")).exit_code == 1


def test_layouts_are_said_aloud(maker: Maker) -> None:
    taps = maker.taps(other_order=True)
    for tap in taps:
        if tap.path.endswith(("q_proj", "k_proj")) and tap.site == "output":
            tap.value = np.ascontiguousarray(tap.value.reshape(2, 12, 4, 8).transpose(0, 2, 1, 3))
        elif tap.path.endswith("v_proj") and tap.site == "output":
            tap.value = tap.value.reshape(2, 12, 4, 8)
    result = diff(maker.reference(), maker.write("p.h5", taps, as_port=True))
    assert result.exit_code == 0
    words = {row.name: row.layout.words for row in result.rows if row.layout and row.layout.words}
    assert (
        words["layers.0.self_attn.q_proj"] == "heads split and transposed (2,4,12,8) from (2,12,32)"
    )
    assert words["layers.0.self_attn.v_proj"] == "heads split (2,12,4,8) from (2,12,32)"
    assert result.counts.layouts == {"heads split and transposed": 6, "heads split": 3}


def test_one_row_for_all_batch_rows(maker: Maker) -> None:
    taps = maker.taps(other_order=True)
    for tap in taps:
        if tap.path == "model.rotary_emb" or "position_embeddings" in tap.leaf:
            tap.value, tap.same_as = tap.value[:1], None
    result = diff(maker.reference(), maker.write("p.h5", taps, as_port=True))
    assert result.counts.agree == 97
    taps[5].value = taps[5].value * np.float32(1.1)
    result = diff(maker.reference(), maker.write("p.h5", taps, as_port=True))
    assert [row.verdict.kind for row in result.rows if row.healed] == ["diverges"]


def test_a_row_for_all_that_is_kept_for_each_is_no_wrong_shape(maker: Maker) -> None:
    """One row against two alike: values are compared; against two that are not, the shape is wrong."""
    taps, kinds = maker.taps(other_order=True), []
    place = next(n for n, tap in enumerate(taps) if tap.leaf == "0")
    wrong = taps[place].value * np.float32(1.1)
    reference = maker.taps()
    reference[place].value, reference[place].same_as = reference[place].value[:1], None
    ours = maker.write("r.h5", reference)
    for value in (wrong, wrong + np.arange(2, dtype=np.float32)[:, None, None]):
        taps[place].value, taps[place].same_as = value, None
        result = diff(ours, maker.write("p.h5", taps, as_port=True))
        kinds += [r.verdict.kind for r in result.rows if r.name == "rotary_emb" and r.verdict.bad]
    assert kinds == ["diverges", "shape"]


def test_a_shape_that_does_not_fit(maker: Maker) -> None:
    taps = maker.taps(other_order=True)
    taps[-1].value, taps[-1].same_as = taps[-1].value[..., :50], None
    result = diff(maker.reference(), maker.write("p.h5", taps, as_port=True))
    assert result.finding is not None
    assert result.finding.kind == "shape"
    assert result.finding.sentence.endswith(
        "its result has another shape: (2,12,53) against (2,12,50); [:, :, 0:50] of the reference agrees."
    )


def test_equal_traces_are_not_read(maker: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    reference = maker.reference()
    with open_trace(reference) as trace:
        monkeypatch.setattr(
            trace, "stored", lambda _: pytest.fail("elements were read"), raising=False
        )
        monkeypatch.setattr(trace, "input_values", lambda _: maker.ids)
        result = diff(trace, trace)
    assert (
        result.summary == "The port agrees with the reference: 97 activations, every value equal."
    )
    assert result.floor == "recorded"


def test_compiled_figures_are_those_of_numpy(maker: Maker) -> None:
    paths = maker.reference(), maker.port("rope")
    plain, compiled = (diff(*paths, compiled=flag).frame() for flag in (False, True))
    rest = ["added", "added_score"]  # a small difference of large figures
    pd.testing.assert_frame_equal(plain.drop(columns=rest), compiled.drop(columns=rest), rtol=1e-5)


def test_the_package_is_the_function(maker: Maker) -> None:
    import firstdiff.diff as package

    paths = maker.reference(), maker.port("bias")
    assert firstdiff.diff is package
    assert firstdiff.diff(*paths).exit_code == package.diff(*paths).exit_code == 1
    assert isinstance(firstdiff.diff(*paths), Diff)


def test_traces_that_have_nothing_in_common(maker: Maker) -> None:
    with pytest.raises(
        OptionError,
        match=r"ref.h5 and port1.h5 have no activation in common: the reference has modules",
    ):
        diff(maker.reference(), maker.port(), matchers=())


def test_a_map_reaches_the_aligner(maker: Maker, tmp_path: Path) -> None:
    port = maker.port(rename=lambda path: maker.port_path(path).replace("o_proj", "zeta"))
    mapping = tmp_path / "map.toml"
    mapping.write_text('"model.layers.*.self_attn.o_proj" = "layers_*/self_attn/zeta"\n')
    result = diff(maker.reference(), port, map=mapping)
    assert result.counts.evidence["map"] == 2 * LAYERS
    assert result.exit_code == 0


def test_other_inputs_are_refused(maker: Maker) -> None:
    port = maker.port(inputs={"input_ids": maker.ids + 1})
    with pytest.raises(
        InputMismatch, match="were made from different inputs: input_ids first differs at"
    ):
        diff(maker.reference(), port)


def test_json_is_the_dataclasses(maker: Maker) -> None:
    result = diff(maker.reference(), maker.port("nan"))
    data = json.loads(result.to_json())
    assert data["exit_code"] == 1
    assert data["finding"]["sentence"] == FAULTS["nan"]
    assert len(data["rows"]) == len(result.rows)
    assert data["rows"][0]["pair"]["reference"]["key"]["path"] == ""
    assert data["reference"]["header"]["framework"] == "torch"


def test_a_prompt_shows_the_verdict_and_no_numbers(maker: Maker) -> None:
    result = diff(maker.reference(), maker.port("nan"))
    assert repr(result) == f"<Diff: First divergence: {FAULTS['nan']}>"
    activation = result.rows[0].activation
    assert activation.digest is not None
    assert activation.digest.sketch is not None
    assert "array(" not in repr(activation)


def test_the_table_survives_parquet(maker: Maker, tmp_path: Path) -> None:
    result = diff(maker.reference(), maker.port("rope"))
    table = result.frame()
    assert len(table) == len(result.rows)
    back = pd.read_parquet(result.to_parquet(tmp_path / "rows.parquet"))
    pd.testing.assert_frame_equal(back, table)
    first = table[table.verdict == "diverges"].iloc[0]
    assert (first["name"], first.site, first.grade) == (
        "layers.0.self_attn.o_proj",
        "input",
        "FAIL",
    )
    assert first.worst == "[0,10,20]"


def test_a_table_that_cannot_be_written(maker: Maker, tmp_path: Path) -> None:
    result = diff(maker.reference(), maker.port())
    with pytest.raises(
        OptionError, match=r"--parquet .*rows.parquet: cannot be written \(.*non-existent directory"
    ):
        result.to_parquet(tmp_path / "none" / "rows.parquet")
