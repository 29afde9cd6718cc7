"""Layouts that no shape demands: believed when exact, told when not, and never one layer's own habit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from firstdiff.diff import diff
from firstdiff.diff.layout import identity
from firstdiff.diff.result import Diff
from firstdiff.traces import Header, Key, TraceWriter

LAYERS = 3
NOISE = 3e-8


@dataclass
class Stack:
    """A trace of a few layers, each of which shows one tensor; the model's result follows from all of them."""

    folder: Path
    values: list[np.ndarray] = field(default_factory=list)

    def write(self, name: str, side: str, shown: list[np.ndarray], result: np.ndarray) -> Path:
        path = self.folder / name
        with TraceWriter(path, Header("torch" if side == "r" else "jax"), overwrite=True) as writer:
            writer.write_input("x", np.zeros((2, 3), np.float32), dtype="float32")
            for number, value in enumerate(shown):
                key = Key(f"layers.{number}.attn", "output", "", "forward")
                writer.write(key, np.ascontiguousarray(value), dtype=str(value.dtype))
            writer.write(Key("head", "output", "", "forward"), result, dtype="float32")
            writer.finish()
        return path


def draw(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def noisy(value: np.ndarray, seed: int) -> np.ndarray:
    return value * (1 + NOISE * draw(seed, *value.shape))


def compared(
    folder: Path,
    values: list[np.ndarray],
    changes: list[Callable[[np.ndarray], np.ndarray]],
    *,
    right: bool = True,
) -> Diff:
    stack, result = Stack(folder), draw(99, 2, 7)
    reference = stack.write("r.h5", "r", values, result)
    shown = [
        noisy(change(value), 7).astype(np.float32)
        for value, change in zip(values, changes, strict=True)
    ]
    port = stack.write("p.h5", "p", shown, result if right else result + 1)
    return diff(reference, port)


def same(value: np.ndarray) -> np.ndarray:
    return value


def turned(value: np.ndarray) -> np.ndarray:
    return value.swapaxes(-1, -2)


def heads_last(value: np.ndarray) -> np.ndarray:
    return value.swapaxes(1, 2)


SIZES = st.lists(st.integers(2, 4), min_size=2, max_size=4).map(tuple)


@settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(SIZES, st.integers(0, 23), st.booleans())
def test_any_permutation_agrees_and_is_said(
    tmp_path: Path, shape: tuple[int, ...], which: int, merge: bool
) -> None:
    """Equal axes are frequent in these shapes: by order alone most of them would be wrong."""
    orders = list(permutations(range(len(shape))))
    order = orders[which % len(orders)]

    def laid(value: np.ndarray) -> np.ndarray:
        moved = value.transpose(order)
        return moved.reshape(-1, moved.shape[-1]) if merge else moved

    values = [draw(n, *shape) for n in range(LAYERS)]
    result = compared(tmp_path, values, [laid] * LAYERS)
    assert result.exit_code == 0
    assert result.counts.agree == LAYERS + 1
    moved = order != tuple(range(len(shape)))
    layouts = [row.layout for row in result.rows[:LAYERS] if row.layout is not None]
    assert all(
        bool(layout.words) == (moved or laid(values[0]).shape != shape) for layout in layouts
    )
    unforced = moved and laid(values[0]).shape == shape
    assert unforced == any("equal shapes and are laid otherwise" in note for note in result.notes)


@settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(SIZES, st.integers(0, 23), st.integers(0, LAYERS - 1), st.floats(1e-4, 0.3))
def test_no_layout_hides_a_fault(
    tmp_path: Path, shape: tuple[int, ...], which: int, layer: int, size: float
) -> None:
    """One layer differs in value as well: it alone diverges, laid as the other layers are, or not at all."""
    orders = list(permutations(range(len(shape))))
    order = orders[which % len(orders)]

    def laid(value: np.ndarray) -> np.ndarray:
        return value.transpose(order)

    def wrong(value: np.ndarray) -> np.ndarray:
        return laid(value) + np.float32(size) * draw(5, *laid(value).shape)

    values = [draw(n, *shape) for n in range(LAYERS)]
    changes = [wrong if n == layer else laid for n in range(LAYERS)]
    result = compared(tmp_path, values, changes, right=False)
    assert [row.verdict.bad for row in result.rows[:LAYERS]] == [n == layer for n in range(LAYERS)]
    others = {row.layout for n, row in enumerate(result.rows[:LAYERS]) if n != layer}
    assert len(others) == 1
    assert result.rows[layer].layout in {*others, identity(shape)}
    assert result.finding is not None
    assert result.finding.order == layer


def test_a_transposed_attention_matrix_is_told_before_the_fault_it_makes(tmp_path: Path) -> None:
    values = [draw(n, 2, 3, 6, 6) for n in range(LAYERS)]
    result = compared(tmp_path, values, [same, turned, same], right=False)
    assert result.exit_code == 1
    odd = [note for note in result.notes if "unlike the same tensor of the other layers" in note]
    assert odd == [
        "layers.1.attn output: laid unlike the same tensor of the other layers.",
    ]


def test_a_transposition_that_is_not_exact_is_a_hint(tmp_path: Path) -> None:
    values = [draw(n, 2, 3, 6, 6) for n in range(LAYERS)]

    def nearly(value: np.ndarray) -> np.ndarray:
        return turned(value) * np.float32(1.001)

    result = compared(tmp_path, values, [nearly] * LAYERS, right=False)
    row = result.rows[0]
    assert row.verdict.bad
    assert row.layout is not None
    assert row.layout.kind == "identity"
    assert any("transposed (0,1,3,2) it would be" in note for note in row.verdict.notes)


def test_batch_rows_in_another_order_are_no_layout(tmp_path: Path) -> None:
    values = [draw(n, 3, 3, 4) for n in range(LAYERS)]
    result = compared(tmp_path, values, [lambda v: v[::-1]] * LAYERS, right=False)
    assert all(row.verdict.bad for row in result.rows[:LAYERS])


@pytest.mark.parametrize("change", [heads_last, same])
def test_heads_that_are_as_many_as_tokens_are_told_apart(
    tmp_path: Path, change: Callable[[np.ndarray], np.ndarray]
) -> None:
    values = [draw(n, 2, 5, 5, 3) for n in range(LAYERS)]
    result = compared(tmp_path, values, [change] * LAYERS)
    assert result.exit_code == 0
    words = {row.layout.words for row in result.rows[:LAYERS] if row.layout is not None}
    assert words == ({"transposed (0,2,1,3)"} if change is heads_last else {""})


def cached(fill: float, before: int = 0) -> Callable[[np.ndarray], np.ndarray]:
    def pad(value: np.ndarray) -> np.ndarray:
        return np.pad(value, [(0, 0), (0, 0), (before, 9 - before), (0, 0)], constant_values=fill)

    return pad


@pytest.mark.parametrize(
    "change", [cached(0), cached(np.inf), cached(0, 9)], ids=["end", "inf", "start"]
)
@pytest.mark.parametrize("longer", ["port", "reference"])
def test_a_cache_of_fixed_length_is_compared_as_far_as_it_is_filled(
    tmp_path: Path, change: Callable[[np.ndarray], np.ndarray], longer: str
) -> None:
    values = [draw(n, 2, 3, 5, 4) for n in range(LAYERS)]
    if longer == "reference":
        long = [change(value) for value in values]
        result = compared(tmp_path, long, [lambda v: _filled(v)] * LAYERS)
    else:
        result = compared(tmp_path, values, [change] * LAYERS)
    assert result.exit_code == 0
    notes = result.rows[0].verdict.notes
    assert len(notes) == 1
    assert notes[0].endswith(f"of the {longer}, the rest is filler")


def _filled(value: np.ndarray) -> np.ndarray:
    rows = [n for n in range(value.shape[2]) if len(np.unique(value[:, :, n])) > 1]
    return value[:, :, rows]


def test_a_cache_that_is_laid_otherwise_too(tmp_path: Path) -> None:
    values = [draw(n, 2, 3, 5, 4) for n in range(LAYERS)]
    result = compared(tmp_path, values, [lambda v: cached(0)(v).swapaxes(1, 2)] * LAYERS)
    assert result.exit_code == 0
    assert result.counts.layouts == {"transposed": LAYERS}


def test_a_fault_in_a_cache_of_fixed_length_is_a_divergence(tmp_path: Path) -> None:
    values = [draw(n, 2, 3, 5, 4) for n in range(LAYERS)]
    result = compared(tmp_path, values, [lambda v: cached(0)(1.1 * v)] * LAYERS, right=False)
    assert result.finding is not None
    assert result.finding.kind == "divergence"


def test_what_lies_beside_the_common_stretch_has_to_be_filler(tmp_path: Path) -> None:
    values = [draw(n, 2, 3, 5, 4) for n in range(LAYERS)]
    result = compared(
        tmp_path,
        values,
        [lambda v: np.concatenate([v, draw(3, 2, 3, 1, 4)], 2)] * LAYERS,
        right=False,
    )
    row = result.rows[0]
    assert row.verdict.kind == "shape"
    assert row.verdict.notes == ("(2,3,5,4) against (2,3,6,4); [:, :, 0:5] of the port agrees",)


def test_digests_alone_do_not_choose_a_layout(tmp_path: Path) -> None:
    """Statistics agree and several layouts fit: neither agreement nor divergence can be said."""
    values = draw(0, 2, 3, 5, 4)
    for name, side, value in (("r.h5", "torch", values), ("p.h5", "jax", values.swapaxes(1, 2))):
        with TraceWriter(tmp_path / name, Header(side), digest_only=True) as writer:
            writer.write_input("x", np.zeros((2, 3), np.float32), dtype="float32")
            key = Key("layers.0.attn", "output", "", "forward")
            writer.write(key, np.ascontiguousarray(value), dtype="float32")
            writer.finish()
    result = diff(tmp_path / "r.h5", tmp_path / "p.h5")
    assert [row.verdict.kind for row in result.rows] == ["not comparable"]
