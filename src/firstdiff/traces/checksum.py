"""A fast 64-bit checksum of dtype, shape and bytes: equal activations have equal checksums, and only those do.

Per block a multilinear hash in the integers modulo 2**64, one random odd key a word, of w ^ (w >> 32) rather than the
word w itself: a change of nothing but top bits, as when two signs flip, would else be lost. Not cryptographic.
"""

from __future__ import annotations

from functools import cache
from hashlib import blake2b

import numpy as np

from firstdiff.traces.sketch import BLOCK
from firstdiff.traces.splitmix import mix, words

_KEYS = 4  # seed


class Checksum:
    """The checksum of an array, given to `add` in blocks."""

    def __init__(self, dtype: str, shape: tuple[int, ...]) -> None:
        text = f"{dtype}{list(shape)}".encode()
        self.value = int.from_bytes(blake2b(text, digest_size=8).digest(), "little")

    def add(self, block: np.ndarray) -> None:
        """Add the next block of storage: at most `BLOCK` elements of at most 8 bytes, contiguous."""
        data = block.view(np.uint8)
        if len(data) % 8:
            data = np.concatenate((data, np.zeros(-len(data) % 8, np.uint8)))
        found = data.view("<u8")
        mixed = found >> np.uint64(32)
        mixed ^= found
        mixed *= _key_table()[: len(found)]
        self.value = mix(self.value ^ int(np.add.reduce(mixed)))


def checksum(stored: np.ndarray, dtype: str) -> int:
    """The checksum of a C-contiguous storage array of the logical ``dtype``, as its digest has it."""
    total = Checksum(dtype, stored.shape)
    for block in blocks_of(stored):
        total.add(block)
    return total.value


def blocks_of(stored: np.ndarray) -> list[np.ndarray]:
    """Views of the array's numbers in C order, `BLOCK` at a time; a complex number is two."""
    flat = stored.reshape(-1)
    if flat.dtype.kind == "c":
        flat = flat.view(f"<f{flat.itemsize // 2}")
    return [flat[start : start + BLOCK] for start in range(0, len(flat), BLOCK)]


@cache
def _key_table() -> np.ndarray:
    return words(_KEYS, BLOCK) | np.uint64(1)
