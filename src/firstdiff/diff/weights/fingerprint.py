"""Fingerprints of parameters that no transpose, reshape, split or stack changes, made in one streamed reading.

The hash of a set of elements is the sum of the hashes of its values. Beside the sum over the whole tensor the sums
along each axis are kept: a *fibre* is what remains when all axes but one are fixed, so that the fibres along the
input axis of a projection are its output rows, wherever a fused, stacked or transposed twin of it keeps them.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import prod
from os import cpu_count
from typing import TYPE_CHECKING

import numpy as np

from firstdiff.diff.weights.grain import COARSE, FINEST, INTEGER, effective, hashes, numbers

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from firstdiff.traces.parameters import Parameter

BLOCK = 1 << 15
"""Elements hashed at a time: they stay in the cache."""
MOST_FIBRES = 1 << 21
"""An axis with more fibres than this is left out, unless it is one of the two longest."""
_SAMPLE = 1024


@dataclass(frozen=True)
class Fingerprint:
    """What is known of one parameter after one reading."""

    count: int
    """Number of elements."""
    sum: float
    """Sum of the finite elements, float64."""
    squares: float
    """Sum of their squares, float64."""
    min: float
    """Smallest element; 0 when there are none."""
    max: float
    """Largest element."""
    grain: str
    """The coarsest grain that holds the values exactly, judged by a sample."""
    hashes: dict[str, int]
    """Hash of the set of elements, by grain."""
    fibres: dict[str, dict[int, np.ndarray]]
    """By grain and axis: hashes of the fibres along that axis, in the shape of the remaining axes."""

    @property
    def constant(self) -> bool:
        """Whether all elements are equal: values then say nothing about identity."""
        return self.min == self.max

    @property
    def rms(self) -> float:
        """Root mean square."""
        return float(np.sqrt(self.squares / max(self.count, 1)))

    def slices(self, grain: str, axis: int) -> np.ndarray | None:
        """Hashes of the slices along ``axis``, float64[shape[axis]]; None when they cannot be had from the fibres."""
        for along, found in self.fibres.get(grain, {}).items():
            if along != axis:
                place = axis - (axis > along)
                others = tuple(i for i in range(found.ndim) if i != place)
                return np.asarray(found.sum(axis=others))
        return None


def fingerprint_all(
    reference: Sequence[Parameter], port: Sequence[Parameter], known: Iterable[str] = ()
) -> tuple[list[Fingerprint], list[Fingerprint]]:
    """Fingerprints of both sides at the grains that comparing them takes; memory: a few parameters at a time.

    ``known`` are grains of a side that is not read, because a trace holds its fingerprints.
    """
    everything = [*reference, *port]
    with ThreadPoolExecutor(max_workers=min(4, cpu_count() or 1)) as pool:
        natural = list(pool.map(natural_grain, everything))
        active = {grain for grain in natural if grain is not None} | set(known) or {FINEST}
        wanted = [grains_of(g, active) for g in natural]
        found = list(pool.map(fingerprint, everything, wanted))
    return found[: len(reference)], found[len(reference) :]


def natural_grain(parameter: Parameter) -> str | None:
    """`effective` of a sample of ``parameter``; None when the sample is constant and so fits every grain."""
    values = _sample(_flat(parameter), parameter.dtype)
    if values.size and not (values == values[0]).all():
        return effective(values, parameter.dtype)
    return INTEGER if effective(values, parameter.dtype) == INTEGER else None


def grains_of(natural: str | None, active: set[str]) -> tuple[str, ...]:
    """The grains at which a parameter of the grain ``natural`` can equal something on the other side."""
    if natural == INTEGER:
        return (INTEGER,)
    coarse = tuple(grain for grain in COARSE if grain in active)
    if natural is None:
        return (*((FINEST,) if FINEST in active else ()), *coarse) or (FINEST,)
    return (natural, *(grain for grain in coarse if grain != natural))


def fingerprint(parameter: Parameter, grains: Sequence[str]) -> Fingerprint:
    """Read ``parameter`` once, in blocks, and fingerprint it at ``grains``."""
    stored = _flat(parameter).reshape(parameter.shape or (1,))
    axes = kept_axes(stored.shape)
    totals = dict.fromkeys(grains, 0)
    fibres = {
        grain: {axis: np.zeros(_without(stored.shape, axis)) for axis in axes} for grain in grains
    }
    moments = _Moments()
    for lead, start, block in blocks(stored):
        values = numbers(block, parameter.dtype)
        moments.add(values)
        for grain in grains:
            hashed = hashes(block, parameter.dtype, grain)
            totals[grain] += int(hashed.sum())
            for axis in axes:
                accumulate(fibres[grain][axis], hashed, axis, lead, start)
    sample = _sample(stored.reshape(-1), parameter.dtype)
    return Fingerprint(
        count=parameter.size,
        sum=moments.sum,
        squares=moments.squares,
        min=moments.min if parameter.size else 0.0,
        max=moments.max if parameter.size else 0.0,
        grain=effective(sample, parameter.dtype),
        hashes={grain: total % (1 << 64) for grain, total in totals.items()},
        fibres=fibres,
    )


def kept_axes(shape: Sequence[int]) -> tuple[int, ...]:
    """The axes along which fibres are kept: none of a vector; few where there would be too many fibres."""
    if len(shape) < 2 or not prod(shape):
        return ()
    longest = sorted(range(len(shape)), key=lambda axis: -shape[axis])[:2]
    size = prod(shape)
    return tuple(
        axis for axis in range(len(shape)) if size // shape[axis] <= MOST_FIBRES or axis in longest
    )


def blocks(stored: np.ndarray) -> Iterator[tuple[tuple[int, ...], int, np.ndarray]]:
    """(leading indices, start along the next axis, block): ``stored`` cut into views of at most `BLOCK` elements,
    or single rows."""
    depth = 0
    while depth < stored.ndim - 1 and prod(stored.shape[depth + 1 :]) > BLOCK:
        depth += 1
    step = max(1, BLOCK // max(prod(stored.shape[depth + 1 :]), 1))
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


class _Moments:
    """Running sum, sum of squares, minimum and maximum of finite elements."""

    def __init__(self) -> None:
        self.sum = self.squares = 0.0
        self.min, self.max = np.inf, -np.inf

    def add(self, values: np.ndarray) -> None:
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


def _flat(parameter: Parameter) -> np.ndarray:
    assert parameter.load is not None
    return np.ascontiguousarray(parameter.load()).reshape(-1)


def _sample(flat: np.ndarray, dtype: str) -> np.ndarray:
    """Up to `_SAMPLE` elements, evenly spaced."""
    step = max(1, flat.size // _SAMPLE)
    return numbers(np.ascontiguousarray(flat[::step][:_SAMPLE]), dtype)


def _without(shape: Sequence[int], axis: int) -> tuple[int, ...]:
    return tuple(n for i, n in enumerate(shape) if i != axis)
