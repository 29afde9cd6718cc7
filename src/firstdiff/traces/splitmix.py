"""Pseudorandom numbers that are part of the format: sketches and checksums of different files must fit together.

SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, OOPSLA 2014), which is a few lines and
will never change, where a library's generator may.
"""

from __future__ import annotations

import numpy as np

GOLDEN = 0x9E3779B97F4A7C15
MASK = (1 << 64) - 1


def mix(word: int) -> int:
    """A bijection of 64-bit words in which every bit of the result depends on every bit of ``word``."""
    word = (word + GOLDEN) & MASK
    word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & MASK
    return word ^ (word >> 31)


def words(seed: int, count: int) -> np.ndarray:
    """uint64[count]: the first numbers of the stream ``seed``; element i is ``mix(mix(seed) + i * GOLDEN)``."""
    steps = np.arange(count, dtype=np.uint64) * np.uint64(GOLDEN)
    found = steps + np.uint64((mix(seed) + GOLDEN) & MASK)
    found = (found ^ (found >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    found = (found ^ (found >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(found ^ (found >> np.uint64(31)))


def signs(seed: int, count: int) -> np.ndarray:
    """float64[count] of 1.0 and -1.0."""
    return 1.0 - 2.0 * (words(seed, count) >> np.uint64(63)).astype(np.float64)
