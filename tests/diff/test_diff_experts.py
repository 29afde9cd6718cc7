"""Experts: looped, batched, given all tokens or their own alone; what one side computes is compared with its slice."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from firstdiff.diff import diff
from firstdiff.diff.result import Diff
from firstdiff.diff.routing import nearest_rows
from firstdiff.diff.row import Row
from firstdiff.traces import Header, Key, TraceWriter

EXPERTS, TOKENS, WIDTH, WIDE = 4, 10, 6, 8
Taps = list[tuple[str, str, np.ndarray]]


def draw(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def tokens_of(expert: int) -> np.ndarray:
    """Two experts for each token; in no order, as a router's `where` gives them."""
    every = np.random.default_rng(3).permutation(TOKENS)
    return np.array([t for t in every if expert in (t % EXPERTS, (t + 1) % EXPERTS)])


def values(wrong: str = "") -> dict[str, np.ndarray]:
    """Everything that all experts make of all tokens: x, [experts, tokens, ...], and the sum."""
    x = draw(0, TOKENS, WIDTH)
    w1, w2 = draw(1, EXPERTS, WIDTH, WIDE), draw(2, EXPERTS, WIDE, WIDTH)
    if wrong == "w2 of expert 2":
        w2[2] *= 1.01
    if wrong == "experts 0 and 1 exchanged":
        w1[[0, 1]], w2[[0, 1]] = w1[[1, 0]], w2[[1, 0]]
    hidden = np.einsum("te,xef->xtf", x, w1)
    out = np.einsum("xtf,xfe->xte", np.tanh(hidden), w2)
    chosen = np.zeros((EXPERTS, TOKENS, 1), np.float32)
    for expert in range(EXPERTS):
        chosen[expert, tokens_of(expert)] = 1
    return {
        "x": x,
        "hidden": hidden,
        "act": np.tanh(hidden),
        "out": out,
        "sum": (out * chosen).sum(0),
    }


def looped(v: dict[str, np.ndarray], *, routed: bool) -> Taps:
    taps: Taps = [("layers.0.moe", "input", v["x"])]
    for e in range(EXPERTS):
        rows = tokens_of(e) if routed else np.arange(TOKENS)
        home = f"layers.0.moe.experts.{e}"
        taps += [
            (home, "input", v["x"][rows]),
            (f"{home}.w1", "input", v["x"][rows]),
            (f"{home}.w1", "output", v["hidden"][e][rows]),
            (f"{home}.w2", "input", v["act"][e][rows]),
            (f"{home}.w2", "output", v["out"][e][rows]),
            (home, "output", v["out"][e][rows]),
        ]
    return [*taps, ("layers.0.moe", "output", v["sum"])]


def batched(v: dict[str, np.ndarray]) -> Taps:
    home = "layers.0.moe.experts"
    return [
        ("layers.0.moe", "input", v["x"]),
        (home, "input", v["x"]),
        (f"{home}.w1", "input", v["x"]),
        (f"{home}.w1", "output", v["hidden"]),
        (f"{home}.w2", "input", v["act"]),
        (f"{home}.w2", "output", v["out"]),
        (home, "output", v["out"]),
        ("layers.0.moe", "output", v["sum"]),
    ]


def write(path: Path, taps: Taps, framework: str) -> Path:
    with TraceWriter(path, Header(framework), overwrite=True) as writer:
        writer.write_input("x", np.zeros((1, TOKENS), np.float32), dtype="float32")
        for place, site, value in taps:
            key = Key(place, site, "" if site == "output" else "x", "forward")
            writer.write(key, np.ascontiguousarray(value), dtype=str(value.dtype))
        writer.finish()
    return path


SHAPES = {
    "looped": lambda v: looped(v, routed=False),
    "routed": lambda v: looped(v, routed=True),
    "batched": batched,
}
PAIRS = [(a, b) for a in SHAPES for b in SHAPES]


def compared(folder: Path, reference: str, port: str, wrong: str = "") -> Diff:
    ours = write(folder / "r.h5", SHAPES[reference](values()), "torch")
    theirs = write(folder / "p.h5", SHAPES[port](values(wrong)), "jax")
    return diff(ours, theirs)


def inner(result: Diff) -> list[Row]:
    """Pairs of what single experts return."""
    return [
        r for r in result.rows if r.pair and r.key.path.endswith((".w1", ".w2")) and r.key.site == "output"
    ]  # fmt: skip


@pytest.mark.parametrize(("reference", "port"), PAIRS)
def test_every_way_of_computing_experts_agrees(tmp_path: Path, reference: str, port: str) -> None:
    result = compared(tmp_path, reference, port)
    assert result.exit_code == 0
    assert not [row for row in result.rows if row.verdict.bad]
    count = 2 if reference == port == "batched" else 2 * EXPERTS
    assert len(inner(result)) == count


@pytest.mark.parametrize(("reference", "port"), PAIRS)
def test_one_wrong_expert_is_placed(tmp_path: Path, reference: str, port: str) -> None:
    result = compared(tmp_path, reference, port, "w2 of expert 2")
    wrong = [row for row in inner(result) if row.verdict.bad]
    assert result.exit_code == 1
    assert result.first is not None
    assert ".w2" in result.first.key.path
    assert len(wrong) == 1
    assert wrong[0].pair is not None
    named = f"{wrong[0].pair.reference.key} {wrong[0].pair.port.key}"
    assert (reference == port == "batched") or "experts.2.w2" in named


@pytest.mark.parametrize(("reference", "port"), PAIRS)
def test_exchanged_experts_are_a_fault_whatever_fits(
    tmp_path: Path, reference: str, port: str
) -> None:
    """Numbered members lie in their order: that another slice would fit is only a hint."""
    result = compared(tmp_path, reference, port, "experts 0 and 1 exchanged")
    assert result.exit_code == 1
    wrong = [row for row in inner(result) if row.verdict.bad]
    assert len(wrong) == (2 if reference == port == "batched" else 4)


def test_rows_are_found_by_what_was_given() -> None:
    many = draw(0, 300, 5)
    rows = np.random.default_rng(1).permutation(300)[:270]
    assert nearest_rows(many[rows] + 1e-6, many) == tuple(rows)
    assert nearest_rows(np.zeros((1 << 14, 1)), np.zeros((1 << 13, 1))) is None
