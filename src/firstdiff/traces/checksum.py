"""A fast 64-bit checksum of dtype, shape and bytes: equal activations have equal checksums, and only those do.

Per block the sum, modulo 2**64, of each word times a random odd key of its place. Alone that would lose changes of
nothing but top bits, as when two signs flip, so each word is first multiplied by a constant, which carries changes
up, and folded, which brings the topmost bits down. Not cryptographic.
"""

from __future__ import annotations

from functools import cache
from hashlib import blake2b

import numpy as np

from firstdiff.traces.sketch import BLOCK
from firstdiff.traces.splitmix import GOLDEN, mix, words

_KEYS = 4  # seed
_CARRY = np.uint64(GOLDEN)
_FOLD = np.uint64(47)


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
        mixed = found * _CARRY
        mixed ^= mixed >> _FOLD
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
