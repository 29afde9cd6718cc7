"""How two arrays with the same elements are arranged: the permutation of axes, and the reshape, between them.

Decided on the hashes of fibres, so that a square matrix and its transpose differ without reading either; elements
are read where hashes leave doubt.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate, permutations
from math import prod
from operator import mul
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from firstdiff.diff.weights.match import Turn

Shape = tuple[int, ...]
_MOST_AXES = 5
_RUNS = 32


@dataclass(frozen=True)
class Arrangement:
    """The port's array is ``reference.transpose(order).reshape(shape)``."""

    order: tuple[int, ...]
    """Permutation of the reference's axes."""
    before: Shape
    """The reference's shape; axes of length 1 are left out of all three."""
    shape: Shape
    """The port's shape."""

    @property
    def moved(self) -> Shape:
        """The reference's shape once its axes are permuted."""
        return tuple(self.before[axis] for axis in self.order)

    @property
    def identity(self) -> bool:
        """Whether the axes stay in order."""
        return self.order == tuple(sorted(self.order))

    @property
    def turn(self) -> Turn:
        """For a matrix on the reference's side."""
        if len(self.before) != 2 or len(self.shape) < 2:
            return ""
        return "kept" if self.identity else "turned"

    @property
    def fits(self) -> bool:
        """Whether the port's axes merge or split the permuted ones, rather than cut across them."""
        ours, theirs = _bounds(self.moved), _bounds(self.shape)
        return ours <= theirs or theirs <= ours

    @property
    def words(self) -> str:
        """`equal`, `transposed`, `axes (2, 3, 1, 0)`, with the new shape where it is another."""
        reshaped = self.moved != self.shape
        if self.identity and not reshaped:
            return "equal"
        text = (
            "" if self.identity else "transposed" if len(self.before) == 2 else f"axes {self.order}"
        )
        if reshaped:
            to = f"reshaped to {show(self.shape)}"
            text = f"{text}, {to}" if text else to
        return text


def show(shape: Sequence[int]) -> str:
    """`(14, 64)`, as people write it."""
    return "(" + ", ".join(map(str, shape)) + ")"


def arrangements(reference: Shape, port: Shape) -> list[Arrangement]:
    """Every one that fits the shapes, the plainest first."""
    before, shape = solid(reference), solid(port)
    if prod(before) != prod(shape):
        return []
    if len(before) > _MOST_AXES:
        return [Arrangement(tuple(range(len(before))), before, shape)] if before == shape else []
    every = (Arrangement(order, before, shape) for order in permutations(range(len(before))))
    found = [a for a in every if a.fits]
    return sorted(found, key=lambda a: (a.moved != a.shape, not a.identity))


def solid(shape: Sequence[int]) -> Shape:
    """``shape`` without axes of length 1."""
    return tuple(n for n in shape if n != 1)


def agrees(
    arrangement: Arrangement, reference: Mapping[int, np.ndarray], port: Mapping[int, np.ndarray]
) -> bool | None:
    """Whether the hashes of the fibres along all axes that stay whole agree; None when there is none to compare.

    ``reference`` and ``port`` map the axes of the shapes without axes of length 1 to hashes.
    """
    compared = 0
    for place, there in _intact(arrangement.moved, arrangement.shape):
        axis = arrangement.order[place]
        ours, theirs = reference.get(axis), port.get(there)
        if ours is None or theirs is None:
            continue
        rest = [a for a in arrangement.order if a != axis]
        order = [a - (a > axis) for a in rest]
        if not np.array_equal(ours.transpose(order).reshape(-1), theirs.reshape(-1)):
            return False
        compared += 1
    return True if compared else None


def solid_fibres(fibres: Mapping[int, np.ndarray], shape: Sequence[int]) -> dict[int, np.ndarray]:
    """``fibres`` by the axes that are left when those of length 1 are dropped."""
    kept = [axis for axis, n in enumerate(shape) if n != 1]
    return {kept.index(axis): found.squeeze() for axis, found in fibres.items() if axis in kept}


def laid(arrangement: Arrangement, reference: np.ndarray) -> np.ndarray:
    """The reference's array arranged as the port's; copies when it is reshaped across permuted axes."""
    return (
        reference.reshape(arrangement.before)
        .transpose(arrangement.order)
        .reshape(arrangement.shape)
    )


def sampled(
    arrangement: Arrangement, count: int
) -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]]:
    """Indices of up to ``count`` elements, in short runs spread evenly: of the reference and of the port.

    Runs touch few pages of a mapped file, also where the axes are exchanged.
    """
    size = prod(arrangement.shape)
    starts = np.linspace(0, max(size - count // _RUNS, 0), _RUNS).astype(np.int64)
    runs = (starts[:, None] + np.arange(min(size, max(count // _RUNS, 1)))).reshape(-1)
    flat = np.unique(runs) if size > count else np.arange(size)
    moved = np.unravel_index(flat, arrangement.moved or (1,))
    back = dict(zip(arrangement.order, moved, strict=False))
    ours = tuple(back[axis] for axis in range(len(arrangement.before)))
    return ours, tuple(np.unravel_index(flat, arrangement.shape or (1,)))


def _intact(moved: Shape, shape: Shape) -> list[tuple[int, int]]:
    """(axis of ``moved``, axis of ``shape``) for axes that are the same run of elements on both sides."""
    ours, theirs = (list(accumulate((1, *s), mul)) for s in (moved, shape))
    return [
        (i, j)
        for i, n in enumerate(moved)
        for j, other in enumerate(shape)
        if n == other and ours[i] == theirs[j]
    ]


def _bounds(shape: Shape) -> frozenset[int]:
    return frozenset(accumulate(shape, mul))
