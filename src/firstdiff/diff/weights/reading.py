"""One streamed reading of a parameter: hashes of its fibres and moments of its values, block by block."""

from __future__ import annotations

from functools import cache
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from firstdiff.diff.weights.grain import FINEST, hashes, numbers
from firstdiff.diff.weights.pages import Pages

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

BLOCK = 1 << 15
"""Elements hashed at a time: they stay in the cache."""
COMPILED_BLOCK = 1 << 20
"""The same for the compiled kernel, which works row by row."""
COMPILE_FROM = 1 << 20
"""Elements from which the compiled kernel pays for being loaded."""


class Reading:
    """The sums of one parameter; `run` reads it."""

    def __init__(
        self, stored: np.ndarray, dtype: str, grains: Sequence[str], axes: Sequence[int]
    ) -> None:
        self.stored, self.dtype, self.grains, self.axes = stored, dtype, tuple(grains), tuple(axes)
        self.totals = dict.fromkeys(self.grains, 0)
        self.fibres = {
            grain: {axis: np.zeros(_without(stored.shape, axis)) for axis in axes}
            for grain in grains
        }
        self.moments, self._pages = Moments(), Pages(stored)

    def run(self) -> None:
        """Read everything once."""
        kernel = _kernel() if self.stored.size >= COMPILE_FROM else None
        for lead, start, block in blocks(self.stored, BLOCK if kernel is None else COMPILED_BLOCK):
            if kernel is None or not self._scan(kernel, lead, start, block):
                self._add(lead, start, block)
            self._pages.read(block.nbytes)
        self.totals = {grain: total % (1 << 64) for grain, total in self.totals.items()}

    def _add(self, lead: tuple[int, ...], start: int, block: np.ndarray) -> None:
        self.moments.add(numbers(block, self.dtype))
        for grain in self.grains:
            hashed = hashes(block, self.dtype, grain)
            self.totals[grain] += int(hashed.sum())
            for axis in self.axes:
                accumulate(self.fibres[grain][axis], hashed, axis, lead, start)

    def _scan(self, kernel: Any, lead: tuple[int, ...], start: int, block: np.ndarray) -> bool:
        """Add ``block`` by the compiled kernel; False when it cannot, and nothing was added."""
        depth = len(lead)
        if (
            block.ndim != 2
            or any(axis < depth for axis in self.axes)
            or self.dtype not in ("float32", "bfloat16")
        ):
            return False
        bits = (
            block.view(np.uint32)
            if self.dtype == FINEST
            else np.left_shift(block, 16, dtype=np.uint32)
        )
        kinds = {
            FINEST: kernel.EXACT,
            "bfloat16": kernel.HALF if self.dtype == "bfloat16" else kernel.ROUNDED,
        }
        if not kinds.keys() >= set(self.grains):
            return False
        found = None
        for grain in self.grains:
            rows, columns = np.zeros(block.shape[0], np.uint64), np.zeros(block.shape[1], np.uint64)
            found = kernel.scan(bits, kinds[grain], rows, columns)
            self.totals[grain] += int(rows.sum())
            fibres = self.fibres[grain]
            if depth in fibres:
                fibres[depth][lead] += columns
            if depth + 1 in fibres:
                where: tuple[int | slice, ...] = (*lead, slice(start, start + block.shape[0]))
                fibres[depth + 1][where] += rows
        if found is None:
            self.moments.add(numbers(block, self.dtype))
        else:
            self.moments.add_known(*found)
        return True


def blocks(
    stored: np.ndarray, most: int = BLOCK
) -> Iterator[tuple[tuple[int, ...], int, np.ndarray]]:
    """(leading indices, start along the next axis, block): ``stored`` cut into views of at most ``most`` elements,
    or single rows."""
    depth = 0
    while depth < stored.ndim - 1 and prod(stored.shape[depth + 1 :]) > most:
        depth += 1
    step = max(1, most // max(prod(stored.shape[depth + 1 :]), 1))
    for lead in np.ndindex(*stored.shape[:depth]):
        for start in range(0, stored.shape[depth], step):
            yield lead, start, stored[lead][start : start + step]


def accumulate(
    into: np.ndarray, hashed: np.ndarray, axis: int, lead: tuple[int, ...], start: int
) -> None:
    """Add the sums of a block along ``axis`` to the hashes of the fibres ``into``."""
    depth = len(lead)
    rows = slice(start, start + hashed.shape[0])
    if axis < depth:
        rest = (*lead[:axis], *lead[axis + 1 :])
        where: tuple[int | slice, ...] = (*rest, rows)
        into[where] += hashed
    elif axis == depth:
        into[lead] += hashed.sum(axis=0)
    else:
        where = (*lead, rows)
        into[where] += hashed.sum(axis=axis - depth)


class Moments:
    """Running sum, sum of squares, minimum and maximum of finite elements."""

    def __init__(self) -> None:
        self.sum = self.squares = 0.0
        self.min, self.max = np.inf, -np.inf

    def add_known(self, total: float, squares: float, low: float, high: float) -> None:
        """Add what is known of finite values."""
        self.sum += total
        self.squares += squares
        self.min, self.max = min(self.min, low), max(self.max, high)

    def add(self, values: np.ndarray) -> None:
        """Add ``values``; those that are not finite are left out."""
        if not values.size:
            return
        low, high = float(values.min()), float(values.max())
        if not (np.isfinite(low) and np.isfinite(high)):
            values = values[np.isfinite(values)]
            if not values.size:
                return
            low, high = float(values.min()), float(values.max())
        flat = values.reshape(-1)
        if flat.dtype.kind != "f":
            flat = flat.astype(np.float64)
        self.sum += float(flat.sum())
        with np.errstate(over="ignore"):
            self.squares += float(flat @ flat)
        self.min, self.max = min(self.min, low), max(self.max, high)


def _without(shape: Sequence[int], axis: int) -> tuple[int, ...]:
    return tuple(n for i, n in enumerate(shape) if i != axis)


@cache
def _kernel() -> Any:
    """The compiled kernel, or None where numba is not installed."""
    try:
        from firstdiff.diff.weights import kernel
    except ImportError:
        return None
    return kernel
