"""Statistics of an activation, computed at capture in one pass over its blocks, in float64.

A complex number counts as one element, but is two numbers in mean, rms, min, max, the non-finite counts and the sketch:
its real and its imaginary part.
"""

from __future__ import annotations

import math

import numpy as np

from firstdiff.traces.checksum import Checksum, blocks_of
from firstdiff.traces.dtypes import widen
from firstdiff.traces.schema import Digest
from firstdiff.traces.sketch import PERIOD, Sketch

_LARGE = 1e150
"""Squares of numbers beyond this, or below its inverse, leave the range of float64."""


def digest(stored: np.ndarray, dtype: str) -> Digest:
    """The digest of a C-contiguous storage array of the logical ``dtype``.

    Sums are float64 over the finite numbers; integers and booleans are numbers, too. Non-finite numbers are 0 in the
    sketch. Count, non-finite counts, mean, rms, min and max do not depend on the layout of the array.
    """
    moments, sketch, checksum = _Moments(), Sketch(), Checksum(dtype, stored.shape)
    # A signalling NaN, or a square beyond the range, is data here and no accident.
    with np.errstate(invalid="ignore", over="ignore", under="ignore"):
        for block in blocks_of(stored):
            checksum.add(block)
            sketch.add(moments.add(widen(block, dtype)))
        mean, rms = moments.mean_and_rms()
        if not _in_range(moments.largest(), rms):
            mean, rms = _scaled(stored, dtype, moments.largest())
        sums = sketch.result()
    return Digest(
        *(stored.size, moments.nan, moments.posinf, moments.neginf),
        *(mean, rms, moments.min, moments.max),
        checksum.value,
        sums,
    )


class _Moments:
    """Running statistics of finite numbers, and counts of the others."""

    def __init__(self) -> None:
        self.nan = self.posinf = self.neginf = 0
        self.min = self.max = 0.0
        self._count = 0
        self._sum = self._squares = 0.0

    def add(self, block: np.ndarray) -> np.ndarray:
        """Add numbers[n]; returns them as float64, 0 for those that are not finite."""
        numbers = block.astype(np.float64)
        # numpy compares float16 one by one, everything else by vector.
        compared = numbers if block.dtype == np.float16 else block
        low, high = float(compared.min()), float(compared.max())
        count = len(numbers)
        if not math.isfinite(high - low):
            low, high, count = self._clean(numbers)
        if count:
            self.min = min(self.min, low) if self._count else low
            self.max = max(self.max, high) if self._count else high
        self._count += count
        self._sum += float(np.add.reduce(numbers))
        self._squares += _squares(numbers)
        return numbers

    def largest(self) -> float:
        """Largest magnitude."""
        return max(abs(self.min), abs(self.max))

    def mean_and_rms(self) -> tuple[float, float]:
        """Of the finite numbers; 0 when there are none."""
        count = max(self._count, 1)
        return self._sum / count, math.sqrt(self._squares / count)

    def _clean(self, numbers: np.ndarray) -> tuple[float, float, int]:
        """Put 0 for what is not finite and count it; smallest, largest and number of the others."""
        finite = np.isfinite(numbers)
        self.nan += int(np.isnan(numbers).sum())
        self.posinf += int((numbers == np.inf).sum())
        self.neginf += int((numbers == -np.inf).sum())
        kept = numbers[finite]
        numbers[~finite] = 0.0
        if not kept.size:
            return 0.0, 0.0, 0
        return float(kept.min()), float(kept.max()), int(kept.size)


def _squares(numbers: np.ndarray) -> float:
    """Sum of squares."""
    # By rows, since BLAS would take threads for more than 10,000 numbers, and they cost more than they save.
    rows = len(numbers) // PERIOD
    whole = rows * PERIOD
    rest = numbers[whole:]
    total = float(np.dot(rest, rest))
    if rows:
        table = numbers[:whole].reshape(rows, PERIOD)
        total += float(np.matmul(table[:, None, :], table[:, :, None]).sum())
    return total


def _in_range(largest: float, rms: float) -> bool:
    return largest == 0.0 or (1 / _LARGE < largest < _LARGE and math.isfinite(rms))


def _scaled(stored: np.ndarray, dtype: str, largest: float) -> tuple[float, float]:
    """Mean and rms of numbers whose squares would leave the range of float64, as multiples of the largest."""
    count, total, squares = 0, 0.0, 0.0
    for block in blocks_of(stored):
        numbers = widen(block, dtype).astype(np.float64)
        numbers = numbers[np.isfinite(numbers)] / largest
        count += len(numbers)
        total += float(np.add.reduce(numbers))
        squares += _squares(numbers)
    return total / count * largest, math.sqrt(squares / count) * largest
