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

from firstdiff.diff.weights.grain import COARSE, FINEST, INTEGER, effective, numbers
from firstdiff.diff.weights.reading import Reading

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from firstdiff.traces.parameters import Parameter

MOST_FIBRES = 1 << 21
"""An axis with more fibres than this is left out, unless it is one of the two longest."""
_SAMPLE = 1024
_RUNS = 16


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
        """Hashes of the slices along ``axis``, uint64[shape[axis]]; None when they cannot be had from the fibres."""
        for along, found in self.fibres.get(grain, {}).items():
            if along != axis:
                place = axis - (axis > along)
                others = tuple(i for i in range(found.ndim) if i != place)
                return np.asarray(found.astype(np.uint64).sum(axis=others))  # float64 would round
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
        ours, theirs = natural[: len(reference)], natural[len(reference) :]
        sides = [{g for g in side if g is not None} | set(known) for side in (ours, theirs)]
        wanted = [grains_of(g, *sides) for g in ours] + [grains_of(g, *sides[::-1]) for g in theirs]
        found = list(pool.map(fingerprint, everything, wanted))
    return found[: len(reference)], found[len(reference) :]


def natural_grain(parameter: Parameter) -> str | None:
    """`effective` of a sample of ``parameter``; None when the sample is constant and so fits every grain."""
    values = _sample(_flat(parameter), parameter.dtype)
    if values.size and not (values == values[0]).all():
        return effective(values, parameter.dtype)
    return INTEGER if effective(values, parameter.dtype) == INTEGER else None


def grains_of(natural: str | None, own: set[str], other: set[str]) -> tuple[str, ...]:
    """The grains at which a parameter of the grain ``natural`` can equal something on the other side.

    ``own`` and ``other`` are the grains that its side and the other one have.
    """
    if natural == INTEGER:
        return (INTEGER,)
    coarse = tuple(grain for grain in COARSE if grain in own | other)
    if natural is None:
        return (FINEST, *coarse)
    if natural == FINEST and coarse and FINEST not in other:
        return coarse
    return (natural, *(grain for grain in coarse if grain != natural))


def fingerprint(parameter: Parameter, grains: Sequence[str]) -> Fingerprint:
    """Read ``parameter`` once, in blocks, and fingerprint it at ``grains``."""
    stored = _flat(parameter).reshape(parameter.shape or (1,))
    reading = Reading(stored, parameter.dtype, grains, kept_axes(stored.shape))
    reading.run()
    sample = _sample(stored.reshape(-1), parameter.dtype)
    return Fingerprint(
        count=parameter.size,
        sum=reading.moments.sum,
        squares=reading.moments.squares,
        min=reading.moments.min if parameter.size else 0.0,
        max=reading.moments.max if parameter.size else 0.0,
        grain=effective(sample, parameter.dtype),
        hashes=reading.totals,
        fibres=reading.fibres,
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


def _flat(parameter: Parameter) -> np.ndarray:
    assert parameter.load is not None
    return np.ascontiguousarray(parameter.load()).reshape(-1)


def _sample(flat: np.ndarray, dtype: str) -> np.ndarray:
    """Up to `_SAMPLE` elements: runs at even distances, so that few pages of a mapped file are touched."""
    step = max(1, flat.size // _RUNS)
    runs = [flat[start : start + _SAMPLE // _RUNS] for start in range(0, flat.size, step)[:_RUNS]]
    return numbers(np.concatenate(runs) if runs else flat, dtype)
