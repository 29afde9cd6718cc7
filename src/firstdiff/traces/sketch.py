"""The count sketch: 64 numbers that stand for a tensor, such that distances of sketches estimate distances of tensors.

Each element is multiplied by a random sign and added to a random one of 64 buckets (Charikar, Chen, Farach-Colton:
Finding frequent items in data streams, 2002), so that E||S(a) - S(b)||^2 = ||a - b||^2. Sketches of equally shaped
tensors are compared; a transposed tensor has another sketch.

To be fast in numpy, signs and buckets are not drawn for every element of the tensor. In a block of `BLOCK` elements,
element i has its own sign and the bucket of i mod `PERIOD`; in each block the buckets are turned round and given
signs of their own. `PERIOD` is a prime, so that a channel of a tensor, every C-th element, meets all buckets, unless C
is a multiple of 4099 itself.
"""

from __future__ import annotations

import math
from functools import cache, lru_cache

import numpy as np

from firstdiff.traces.splitmix import mix, signs, words

BUCKETS = 64
PERIOD = 4099
BLOCK = 8 * PERIOD
"""Elements that are sketched at once: in float64 they fit in a core's second-level cache."""

_SIGNS, _BUCKETS, _BLOCKS = 1, 2, 3  # seeds


class Sketch:
    """The sketch of a tensor, given to `add` in blocks."""

    def __init__(self) -> None:
        self._sums = np.zeros(BUCKETS)
        self._blocks = 0

    def add(self, numbers: np.ndarray) -> None:
        """Add the next block: finite float64[n], n = `BLOCK` except in the last one."""
        sums = np.bincount(*_weights(numbers), minlength=BUCKETS)
        block_signs, turn = _block(self._blocks)
        self._sums += (sums * block_signs)[turn]
        self._blocks += 1

    def result(self) -> np.ndarray:
        """float64[64], finite: sums beyond its range are cut."""
        if math.isfinite(float(np.add.reduce(self._sums))):
            return self._sums
        return np.nan_to_num(self._sums)


def _weights(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Buckets and signed sums of at most `PERIOD` residues."""
    table = _sign_table()
    count = len(numbers)
    rows = count // PERIOD
    whole = rows * PERIOD
    rest = numbers[whole:] * table[whole:count]
    if not rows:
        return _bucket_table()[:count], rest
    folded = np.einsum(
        "rp,rp->p", numbers[:whole].reshape(rows, PERIOD), table[:whole].reshape(rows, PERIOD)
    )
    folded[: len(rest)] += rest
    return _bucket_table(), folded


@cache
def _sign_table() -> np.ndarray:
    return signs(_SIGNS, BLOCK)


@cache
def _bucket_table() -> np.ndarray:
    return (words(_BUCKETS, PERIOD) >> np.uint64(58)).astype(np.intp)


@lru_cache(maxsize=1 << 12)
def _block(number: int) -> tuple[np.ndarray, np.ndarray]:
    """Signs of the buckets in a block, and the order in which they are added to the sketch."""
    seed = mix(_BLOCKS) ^ number
    return signs(seed, BUCKETS), (np.arange(BUCKETS) + (mix(seed) >> 58)) % BUCKETS
