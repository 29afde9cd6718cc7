"""Equal bytes have equal checksums; every small change of bytes, dtype or shape another one."""

from __future__ import annotations

import numpy as np
import pytest

from firstdiff.traces import checksum, digest
from firstdiff.traces.sketch import BLOCK


def test_it_is_that_of_the_digest() -> None:
    array = np.random.default_rng(0).standard_normal((3, BLOCK // 2)).astype(np.float32)
    assert digest(array, "float32").checksum == checksum(array, "float32")
    assert checksum(array.copy(), "float32") == checksum(array, "float32")
    assert 0 <= checksum(array, "float32") < 1 << 64


def test_it_is_part_of_the_format() -> None:
    """Written files hold these numbers: a change here is a new format version."""
    assert checksum(np.arange(10, dtype=np.float32), "float32") == 2880397155763172149
    assert checksum((np.arange(100_001) % 251).astype(np.uint8), "uint8") == 6058991171512532397


@pytest.mark.parametrize("size", [1, 2, 7, 8, 9, 100, BLOCK + 3])
def test_every_single_bit_counts(size: int) -> None:
    array = np.random.default_rng(size).integers(0, 256, size, dtype=np.uint8)
    seen = {checksum(array, "uint8")}
    rng = np.random.default_rng(1)
    places = range(size) if size <= 100 else rng.integers(0, size, 40)
    for place in places:
        for bit in range(8):
            changed = array.copy()
            changed[place] ^= 1 << bit
            seen.add(checksum(changed, "uint8"))
    assert len(seen) == 8 * len(set(places)) + 1


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_flipped_signs_do_not_cancel(dtype: type) -> None:
    rng = np.random.default_rng(0)
    array = rng.standard_normal(64).astype(dtype)
    seen = {checksum(array, "x"), checksum(-array, "x")}
    for _ in range(300):
        chosen = rng.random(64) < 0.5
        seen.add(checksum(np.where(chosen, -array, array), "x"))
    assert len(seen) == 302


def test_swapped_elements_and_blocks_count() -> None:
    array = np.random.default_rng(0).standard_normal(3 * BLOCK).astype(np.float32)
    swapped = array.copy()
    swapped[[0, 1]] = swapped[[1, 0]]
    blocks = np.concatenate((array[BLOCK : 2 * BLOCK], array[:BLOCK], array[2 * BLOCK :]))
    assert len({checksum(a, "float32") for a in (array, swapped, blocks)}) == 3


def test_dtype_and_shape_count() -> None:
    array = np.zeros(12, np.uint16)
    found = {checksum(array, dtype) for dtype in ("uint16", "bfloat16", "float16")}
    found |= {checksum(array.reshape(shape), "uint16") for shape in ((3, 4), (4, 3), (12, 1))}
    found |= {checksum(np.zeros(n, np.uint16), "uint16") for n in range(12)}
    assert len(found) == 18


def test_unaligned_memory_gives_the_same() -> None:
    data = np.random.default_rng(0).integers(0, 256, 4001, dtype=np.uint8)
    shifted = np.empty(4002, np.uint8)[1:]
    shifted[:] = data
    assert checksum(shifted, "uint8") == checksum(data, "uint8")
