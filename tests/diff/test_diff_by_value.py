"""Ports whose names say nothing: aligned by value, and behind a fault by role and by place. No pair is ever wrong."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from firstdiff.diff import diff
from firstdiff.diff.modules import Module, ModulePair, serving_one
from firstdiff.diff.value_match import _longest_chain
from firstdiff.diff.weights.modulemap import CERTAIN, ModuleMap
from firstdiff.diff.weights.valued import with_values
from firstdiff.traces import Key, open_trace
from firstdiff.traces.schema import Activation

if TYPE_CHECKING:
    from collections.abc import Iterable

NAMES = {
    "input_layernorm": "normalise",
    "post_attention_layernorm": "normalise",
    "self_attn": "attention",
    **dict.fromkeys(
        ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), "attention.linear"
    ),
    "self_attn.o_proj": "attention.linear",
    "mlp": "mlp",
    **dict.fromkeys(("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"), "mlp.linear"),
    "mlp.act_fn": "mlp.silu",
    "": "step",
}
TOP = {"model.norm": "f.normalise", "lm_head": "f.linear", "model.rotary_emb": "f.tables"}


def function_of(path: str) -> str | None:
    """Under which function the port shows what the reference's module at ``path`` does; None where it has none."""
    found = re.fullmatch(r"model\.layers\.(\d)\.?(.*)", path)
    if found:
        return f"f.step.{found[1]}" + (f".{NAMES[found[2]]}" if found[2] else "")
    return "" if not path else TOP.get(path)


def as_functions(taps: Iterable[Any]) -> list[Any]:
    """``taps`` as a port of plain functions shows them: one name for many modules, told apart by the call index."""
    calls: Counter[str] = Counter()
    number: dict[str, int] = {}
    made, place = [], {}
    taps = list(taps)
    for old, tap in enumerate(taps):
        name = function_of(tap.path)
        if name is None:
            continue
        if tap.path not in number:
            number[tap.path] = calls[name]
            calls[name] += 1
        place[old] = len(made)
        tap.call, tap.reference = number[tap.path], tap.path
        tap.path = name
        tap.same_as = place.get(tap.same_as)
        made.append(tap)
    return made


def run(
    maker: Any, fault: str = "", dtype: str = "float32", **options: Any
) -> tuple[Any, dict[Any, str]]:
    """The comparison, and the reference's path of each call of the port."""
    taps = as_functions(maker.taps(fault, dtype, other_order=True, **options))
    truth = {(tap.path, tap.call): tap.reference for tap in taps}
    port = maker.write(
        "port.h5", taps, dtype=dtype, as_port=True, rename=str, front_end="functions"
    )
    return diff(maker.reference(dtype), port), truth


def wrong_pairs(result: Any, truth: dict[Any, str]) -> list[list[str]]:
    """Pairs of activations that are neither of the same call nor the same value, nor what the reference hands on."""
    found, right = [], set()
    for row in result.rows:
        if row.pair is None or row.pair.evidence not in ("values", "neighbours"):
            continue
        ours, theirs = row.pair.reference.key, row.pair.port.key
        same = truth[theirs.path, theirs.call] == ours.path
        value = row.pair.reference.digest.checksum, row.pair.port.order
        if same:
            right.add(value)
        elif not (row.pair.evidence == "values" and row.verdict.kind == "agrees"):
            found.append((value, ours.path, f"{theirs.path}#{theirs.call}"))
    return [names for value, *names in found if value not in right]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_right_port_of_functions_is_aligned_by_value(maker: Any, dtype: str) -> None:
    result, truth = run(maker, dtype=dtype)
    assert result.exit_code == 0
    assert result.counts.evidence["values"] >= 80
    assert "neighbours" not in result.counts.evidence
    assert result.counts.missing == 0
    assert not wrong_pairs(result, truth)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("ids", "inside embed_tokens: its input agrees, its result differs."),
        ("bias", "inside layers.0.self_attn.v_proj: its input agrees, its result differs."),
        ("gelu", "inside layers.1.mlp.act_fn: its input agrees, its result differs."),
        ("eps", "inside layers.1.input_layernorm: its input agrees, its result differs."),
        ("skip", "inside layers.1.input_layernorm: its input agrees, its result differs."),
        (
            "late rope",
            "inside layers.1.self_attn, after q_proj, k_proj, v_proj (agree), before o_proj (its input differs).",
        ),
        (
            "residual",
            "inside layers.1, after self_attn, mlp (agree): its input agrees, its result differs.",
        ),
    ],
)
def test_a_fault_is_placed_without_names(maker: Any, fault: str, said: str) -> None:
    result, truth = run(maker, fault)
    assert result.summary == f"First divergence: {said}"
    assert not wrong_pairs(result, truth)


@pytest.mark.parametrize(
    ("fault", "dtype"), [("rope", "float32"), ("rope", "bfloat16"), ("nan", "float32")]
)
def test_no_pair_is_wrong_where_nothing_behind_a_fault_agrees(
    maker: Any, fault: str, dtype: str
) -> None:
    result, truth = run(maker, fault, dtype)
    assert not wrong_pairs(result, truth)
    assert result.exit_code == 1


def test_the_place_is_said_in_the_port_s_own_names(maker: Any) -> None:
    result, _ = run(maker, "late rope")
    assert (
        "In the port the first wrong value is what f.step.1.attention.linear (call 3) is given."
        in result.notes
    )
    result, _ = run(maker, "gelu")
    assert "In the port the first wrong value is what f.step.1.mlp.silu returns." in result.notes
    assert not any(
        "In the port" in note for note in diff(maker.reference(), maker.port("rope")).notes
    )


def test_only_pairs_of_equal_values_are_sure(maker: Any) -> None:
    result, _ = run(maker, "rope")
    for row in result.rows:
        if row.pair is not None and row.pair.evidence == "neighbours":
            assert row.pair.confidence < 0.95
        if row.pair is not None and row.pair.evidence == "values":
            assert row.verdict.kind == "agrees"


def test_a_function_that_serves_several_modules_is_none_of_them() -> None:
    """`mlp.linear` is a usual name of down_proj, but here it is called three times."""

    def module(path: str, calls: int) -> Module:
        keys = (Key(path, "output", call=call) for call in range(calls))
        return Module(
            path, "call", "", tuple(Activation(n, k, "float32", (2,)) for n, k in enumerate(keys))
        )

    one, once, thrice = module("a", 1), module("b", 1), module("b", 3)
    match = serving_one(lambda ours, theirs, _pairs: [ModulePair(ours[0], theirs[0], "alias")])
    assert match([one], [once], [])
    assert not match([one], [thrice], [])


def test_names_are_enough_where_they_align(maker: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("values were looked at")

    monkeypatch.setattr("firstdiff.diff.by_value._Stage", fail)
    result = diff(maker.reference(), maker.port("rope"))
    assert set(result.counts.evidence) == {"name"}


def test_unrelated_values_are_not_paired_in_a_port_that_agrees(maker: Any) -> None:
    """The port lacks a value and has another of its size in its place: neither is accused."""
    taps = as_functions(maker.taps(other_order=True))
    for tap in taps:
        if tap.reference.endswith("self_attn.q_proj") and tap.site == "output":
            tap.value = np.random.default_rng(0).normal(size=tap.value.shape).astype(np.float32)
    port = maker.write("port.h5", taps, as_port=True, rename=str, front_end="functions")
    result = diff(maker.reference(), port)
    assert result.exit_code == 0
    missing = {row.name for row in result.rows if row.side == "reference"}
    assert {f"layers.{n}.self_attn.q_proj" for n in range(3)} <= missing


def test_the_map_pairs_modules_whose_results_are_equal(maker: Any) -> None:
    """Only where one path is one path: a function that serves four projections is left out."""
    taps = as_functions(maker.taps(other_order=True))
    port = maker.write("port.h5", taps, as_port=True, rename=str, front_end="functions")
    with open_trace(maker.reference()) as ours, open_trace(port) as theirs:
        sides = [tuple(dict.fromkeys(a.key.path for a in t.activations)) for t in (ours, theirs)]
        found = with_values(ModuleMap((), *sides), ours, theirs)
    pairs = {pair.reference: pair.port for pair in found.pairs}
    assert pairs == {
        "model.rotary_emb": "f.tables",
        "model.norm": "f.normalise",
        "lm_head": "f.linear",
        **{
            f"model.layers.{n}{ours}": f"f.step.{n}{theirs}"
            for n in range(3)
            for ours, theirs in (
                ("", ""),
                (".self_attn", ".attention"),
                (".mlp", ".mlp"),
                (".mlp.act_fn", ".mlp.silu"),
            )
        },
    }
    assert {pair.evidence for pair in found.pairs} == {"values"}
    assert all(pair.confidence < CERTAIN for pair in found.pairs)
    assert not set(pairs) & set(found.reference_only)


def test_the_longest_increasing_part_of_pairs_is_kept() -> None:
    pairs = [(0, 1), (1, 9), (2, 2), (3, 0), (4, 3), (5, 8)]
    assert _longest_chain(pairs) == [(0, 1), (2, 2), (4, 3), (5, 8)]
    assert _longest_chain([]) == []
