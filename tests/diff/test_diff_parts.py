"""Modules of one side that are one module on the other: compared slice by slice, in either direction."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from firstdiff.diff import diff
from firstdiff.diff.row import Row
from firstdiff.traces import open_trace
from firstdiff.traces.part import Cut as PartCut
from firstdiff.traces.part import on, origin, part_of, put

if TYPE_CHECKING:
    from collections.abc import Callable

    from firstdiff.diff.result import Diff

HEADS = 4
QKV = ("q_proj", "k_proj", "v_proj")
GATE_UP = ("gate_proj", "up_proj")


def flat(parts: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(parts, -1)


def by_head(parts: list[np.ndarray]) -> np.ndarray:
    lead = parts[0].shape[:-1]
    return np.concatenate([p.reshape(*lead, HEADS, -1) for p in parts], -1).reshape(*lead, -1)


def stacked(parts: list[np.ndarray]) -> np.ndarray:
    return np.stack(parts, 2)


def swapped(parts: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([parts[0], *parts[:0:-1]], -1)


WAYS = {"flat": flat, "by head": by_head, "stacked": stacked, "swapped": swapped}


def fuse(taps, names: tuple[str, ...], to: str, way: Callable[[list[np.ndarray]], np.ndarray]):
    """``taps`` with the modules ``names`` as one module, ``to``."""
    kept, seen = [], {}
    for tap in taps:
        home, _, last = tap.path.rpartition(".")
        tap.same_as = None
        if last not in names:
            kept.append(tap)
            continue
        tap.path = f"{home}.{to}"
        if tap.site == "input" and last == names[0]:
            kept.append(tap)
        if tap.site == "output":
            seen[home, last] = tap.value
            if last == names[-1]:
                tap.value = way([seen[home, name] for name in names])
                kept.append(tap)
    return kept


def parts(result: Diff) -> list[Row]:
    return [r for r in result.rows if r.pair and (r.pair.port.part or r.pair.reference.part)]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("names", [QKV, GATE_UP])
@pytest.mark.parametrize("known", [True, False], ids=["known name", "unknown name"])
def test_a_fused_port(maker, way: str, names: tuple[str, ...], known: bool) -> None:
    to = ("qkv" if names is QKV else "gate_up_proj") if known else "mixed"
    taps = fuse(maker.taps(other_order=True), names, to, WAYS[way])
    result = diff(maker.reference(), maker.write("port.h5", taps, as_port=True))
    assert result.exit_code == 0
    assert (result.counts.missing, result.counts.extra) == (0, 0)
    assert len(parts(result)) == 3 * len(names)
    assert {row.pair.evidence for row in parts(result)} == {"alias" if known else "values"}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("names", [QKV, GATE_UP])
@pytest.mark.parametrize("known", [True, False], ids=["known name", "unknown name"])
def test_a_fused_reference(maker, way: str, names: tuple[str, ...], known: bool) -> None:
    to = ("c_attn" if names is QKV else "gate_up_proj") if known else "mixed"
    reference = maker.write("fused.h5", fuse(maker.taps(), names, to, WAYS[way]))
    result = diff(reference, maker.port())
    assert result.exit_code == 0
    assert (result.counts.missing, result.counts.extra) == (0, 0)
    assert len(parts(result)) == 3 * len(names)
    labels = {row.label for row in parts(result)}
    assert len(labels) == len(names)


def test_a_slice_is_a_row_with_both_names(maker) -> None:
    from firstdiff.diff.report.format import part_text

    taps = fuse(maker.taps(other_order=True), QKV, "qkv", flat)
    result = diff(maker.reference(), maker.write("port.h5", taps, as_port=True))
    first = parts(result)[0]
    assert (first.name, part_text(first)) == (
        "layers.0.self_attn.q_proj",
        "= the port's layers_0/self_attn/qkv[..., 0:32]",
    )
    assert any("holds the reference's q_proj, k_proj, v_proj" in note for note in result.notes)
    assert "qkv[..., 0:32]" in result.frame()["part"].iloc[first.activation.order]


@pytest.mark.parametrize("way", WAYS)
def test_a_fault_in_one_slice_of_a_fused_port_is_placed(maker, way: str) -> None:
    """v lacks its bias in layer 0: that slice alone differs, whatever the way of fusing."""
    taps = fuse(maker.taps("bias", other_order=True), QKV, "qkv", WAYS[way])
    result = diff(maker.reference(), maker.write("port.h5", taps, as_port=True))
    assert result.finding is not None
    assert result.finding.region == "layers.0.self_attn.v_proj"
    assert [r.verdict.kind for r in parts(result)[:3]] == ["agrees", "agrees", "diverges"]


@pytest.mark.parametrize("way", WAYS)
def test_a_fault_in_one_slice_of_a_fused_reference_is_placed(maker, way: str) -> None:
    reference = maker.write(
        "fused.h5",
        fuse(maker.taps(), QKV, "c_attn", WAYS[way]),
    )
    result = diff(reference, maker.port("bias"))
    assert result.first is not None
    assert result.first.pair is not None
    assert result.first.pair.port.key.path == "layers_0/self_attn/v_proj"
    assert result.finding is not None
    assert result.finding.region == "layers.0.self_attn.c_attn"


def test_a_slice_wrong_in_no_order_says_which_order_would_fit(maker) -> None:
    """q and v lie flat, k by head: the order that fits most is shown, k differs, and the other order is a hint."""
    taps, fused = maker.taps(), fuse(maker.taps(other_order=True), QKV, "qkv", flat)
    whole = {t.path: t.value for t in fused if t.path.endswith("qkv") and t.site == "output"}
    for tap in taps:
        if tap.path.endswith("k_proj") and tap.site == "output":
            value = whole[tap.path.replace("k_proj", "qkv")]
            tap.value = value.reshape(2, 12, HEADS, -1)[..., 8:16].reshape(2, 12, -1)
    result = diff(maker.write("r.h5", taps), maker.write("p.h5", fused, as_port=True))
    assert [row.verdict.bad for row in parts(result)[:3]] == [False, True, False]
    notes = parts(result)[1].verdict.notes
    assert any(".reshape(2,12,4,24)[..., 8:16] would fit" in note for note in notes)
    assert any("fit in no way that was tried" in note for note in result.notes)


def test_unrelated_modules_of_fitting_size_are_not_paired(maker) -> None:
    taps = fuse(maker.taps(other_order=True), QKV, "mixed", flat)
    for number, tap in enumerate(taps):
        if tap.path.endswith("mixed") and tap.site == "output":
            tap.value = np.random.default_rng(number).standard_normal(tap.value.shape).astype("f4")
    result = diff(maker.reference(), maker.write("port.h5", taps, as_port=True))
    assert not parts(result)
    assert result.counts.missing == 9  # the results; what they are given is found by value


def test_layers_that_are_fused_otherwise_are_said(maker) -> None:
    seen: list[int] = []

    def changing(found: list[np.ndarray]) -> np.ndarray:
        seen.append(1)
        return by_head(found) if len(seen) == 2 else flat(found)

    taps = fuse(maker.taps(other_order=True), QKV, "qkv", changing)
    result = diff(maker.reference(), maker.write("port.h5", taps, as_port=True))
    assert result.exit_code == 0
    said = [note for note in result.notes if "unlike the other layers" in note]
    assert len(said) == 1
    assert "layers_1/self_attn/qkv" in said[0]


def test_digests_alone_leave_fused_modules_unpaired(maker) -> None:
    taps = fuse(maker.taps(other_order=True), QKV, "qkv", flat)
    port = maker.write("port.h5", taps, as_port=True, digest_only=True)
    result = diff(maker.reference(), port)
    assert not parts(result)
    assert result.exit_code == 0


def test_a_part_reads_and_writes_where_it_lies(maker) -> None:
    with open_trace(maker.reference()) as trace:
        whole = next(a for a in trace.activations if a.shape == (2, 12, 32))
        half = part_of(whole, PartCut((2, 12, 32), 2, 8, 24, (2, 12, 16), words="[..., 8:24]"))
        row = part_of(half, PartCut((2, 12, 16), 1, 0, 0, (2, 2, 16), (5, 3), "[:, rows]"))
        values = trace.values(whole)
        assert np.array_equal(trace.values(row), values[:, [5, 3], 8:24])
        assert origin(row) is whole
        assert row.key.leaf == f"{whole.key.leaf}[..., 8:24][:, rows]"
        target = np.zeros_like(values)
        put(target, row, trace.values(row))
        assert np.array_equal(target[:, [5, 3], 8:24], values[:, [5, 3], 8:24])
        assert np.count_nonzero(target) == np.count_nonzero(values[:, [5, 3], 8:24])
        again = on(whole, row)
        assert again is not None
        assert again.shape == row.shape
        other = next(a for a in trace.activations if a.shape == (2, 12, 64))
        assert on(other, row) is None
