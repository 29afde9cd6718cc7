"""The compiled part of adding to a tally: one pass over two float32 or bfloat16 arrays. Needs numba.

Blocks of 1024 elements stay in the first-level cache while two small loops run over them, each of which the
compiler turns into vector code: float32 sums are promoted to float64 after every block; maxima are taken over bit
patterns as integers (the bits of non-negative floats are in the order of the numbers), since a float maximum
does not vectorise. bfloat16 is widened in registers, and its distances are counted in 16 bits. A block that holds
anything non-finite, or whose squares leave float32's range, is added again element by element in float64.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np
from numba import njit

_BLOCK = 1024
_OVERFLOW = 0x7F800000
_LEAST_SQUARES, _MOST_SQUARES = 1e-25, 1e37
ERROR, ERROR2, REFERENCE2, PORT2, LARGEST = range(5)
"""Places in the float64[5] ``sums``."""
WORST, FINITE, MISMATCH, ULP, UNLIKE, FIRST_UNLIKE, OURS, THEIRS = 0, 1, 2, 3, 4, 5, 6, 10
"""Places in the int64[14] ``numbers``; the last two begin NaN, +inf, -inf and the first of them on each side."""

_Function = TypeVar("_Function", bound=Callable[..., Any])


def _fast(function: _Function) -> _Function:
    """Compile ``function``; sums may be reordered, which is what turns them into vector code."""
    compiled = njit(
        nogil=True, cache=True, error_model="numpy", fastmath={"reassoc", "nsz", "contract"}
    )
    return cast("_Function", compiled(function))


def _exact(function: _Function) -> _Function:
    """Compile ``function`` as it is written."""
    return cast("_Function", njit(nogil=True, cache=True, error_model="numpy")(function))


@_fast
def _sum_up(a: Any, b: Any, out: Any) -> Any:
    """Sums of |d|, d², a², b² of one block of float32 into float32[4] ``out``; returns the bits of the largest |d|."""
    zero = np.float32(0)
    s0, s1, s2, s3 = zero, zero, zero, zero
    largest = np.int32(0)
    for i in range(a.shape[0]):
        x, y = a[i], b[i]
        d = abs(y - x)
        s0 += d
        s1 += d * d
        s2 += x * x
        s3 += y * y
        largest = max(largest, np.float32(d).view(np.int32))
    out[0], out[1], out[2], out[3] = s0, s1, s2, s3
    return largest


@_fast
def _sum_up_short(a: Any, b: Any, out: Any) -> Any:
    """The same of bfloat16 bits (uint16)."""
    zero, shift = np.float32(0), np.uint32(16)
    s0, s1, s2, s3 = zero, zero, zero, zero
    largest = np.int32(0)
    for i in range(a.shape[0]):
        x = np.uint32(np.uint32(a[i]) << shift).view(np.float32)
        y = np.uint32(np.uint32(b[i]) << shift).view(np.float32)
        d = abs(y - x)
        s0 += d
        s1 += d * d
        s2 += x * x
        s3 += y * y
        largest = max(largest, np.float32(d).view(np.int32))
    out[0], out[1], out[2], out[3] = s0, s1, s2, s3
    return largest


@_fast
def _distances(a: Any, b: Any) -> Any:
    """Of two blocks of float32 bits (int32): the largest ULP distance, and how many differ. Zeros are one number."""
    largest, count = np.uint32(0), np.int32(0)
    for i in range(a.shape[0]):
        p, q = a[i], b[i]
        p = np.int32((p ^ ((p >> 31) & 0x7FFFFFFF)) - (p >> 31))
        q = np.int32((q ^ ((q >> 31) & 0x7FFFFFFF)) - (q >> 31))
        distance = np.uint32(max(p, q) - min(p, q))
        largest = max(largest, distance)
        count = np.int32(count + np.int32(distance != 0))
    return np.int64(largest), np.int64(count)


@_fast
def _short_distances(a: Any, b: Any) -> Any:
    """The same of bfloat16 bits (int16)."""
    largest, count = np.uint16(0), np.int16(0)
    for i in range(a.shape[0]):
        p, q = a[i], b[i]
        p = np.int16((p ^ ((p >> 15) & 0x7FFF)) - (p >> 15))
        q = np.int16((q ^ ((q >> 15) & 0x7FFF)) - (q >> 15))
        distance = np.uint16(max(p, q) - min(p, q))
        largest = max(largest, distance)
        count = np.int16(count + np.int16(distance != 0))
    return np.int64(largest), np.int64(count)


@_fast
def _widen(bits: Any, out: Any) -> Any:
    for i in range(bits.shape[0]):
        out[i] = np.uint32(bits[i]) << 16


@_exact
def _special(value: Any, place: Any, numbers: Any, side: Any) -> Any:
    if value != value:
        numbers[side] += 1
    elif value > 0:
        numbers[side + 1] += 1
    else:
        numbers[side + 2] += 1
    if numbers[side + 3] < 0:
        numbers[side + 3] = place


@_exact
def _order(bits: Any) -> Any:
    wide = np.int64(bits)
    return wide if wide >= 0 else np.int64(-2147483648) - wide


@_exact
def _add_exactly(a: Any, b: Any, start: Any, sums: Any, numbers: Any) -> Any:
    """One block in float64, element by element, non-finite ones sorted out."""
    first, second = a.view(np.int32), b.view(np.int32)
    for i in range(a.shape[0]):
        x, y = np.float64(a[i]), np.float64(b[i])
        if not (np.isfinite(x) and np.isfinite(y)):
            if not np.isfinite(x):
                _special(x, start + i, numbers, OURS)
            if not np.isfinite(y):
                _special(y, start + i, numbers, THEIRS)
            if not (x == y or (x != x and y != y)):
                numbers[UNLIKE] += 1
                numbers[MISMATCH] += 1
                if numbers[FIRST_UNLIKE] < 0:
                    numbers[FIRST_UNLIKE] = start + i
            continue
        d = abs(y - x)
        sums[ERROR] += d
        sums[ERROR2] += d * d
        sums[REFERENCE2] += x * x
        sums[PORT2] += y * y
        numbers[FINITE] += 1
        numbers[MISMATCH] += d != 0.0
        if d > sums[LARGEST]:
            sums[LARGEST] = d
            numbers[WORST] = start + i
        numbers[ULP] = max(numbers[ULP], abs(_order(first[i]) - _order(second[i])))


@_exact
def _outside(value: Any, largest: Any) -> Any:
    """Whether a float32 sum of squares overflowed, or may have lost small ones: 0 is right only for zeros."""
    return not value < _MOST_SQUARES or (value < _LEAST_SQUARES and largest != 0)


@_exact
def _in_range(part: Any, largest: Any) -> Any:
    """Whether the sums of one block are right: nothing is not finite, and no square left float32's range."""
    return not (
        largest >= _OVERFLOW
        or _outside(part[1], largest)
        or not _LEAST_SQUARES <= part[2] < _MOST_SQUARES
        or not _LEAST_SQUARES <= part[3] < _MOST_SQUARES
    )


@_exact
def _take(part: Any, largest: Any, size: Any, start: Any, sums: Any, numbers: Any) -> Any:
    """Add one block's sums to float64[5] ``sums`` and int64[14] ``numbers``; whether its largest error leads."""
    for n in range(4):
        sums[n] += part[n]
    numbers[FINITE] += size
    if largest == 0:
        sums[LARGEST] = max(sums[LARGEST], 0.0)
        numbers[WORST] = numbers[WORST] if numbers[WORST] >= 0 else start
        return False
    part[0] = max(sums[LARGEST], 0.0)
    return largest > part.view(np.int32)[0]


@_exact
def _lead(a: Any, b: Any, largest: Any, start: Any, sums: Any, numbers: Any) -> Any:
    """Find the first pair of float32 numbers of the block whose error has the bits ``largest``."""
    for place in range(a.shape[0]):
        d = np.float32(abs(b[place] - a[place]))
        if d.view(np.int32) == largest:
            sums[LARGEST] = d
            numbers[WORST] = start + place
            return


@_exact
def add_float32(a: Any, b: Any, start: Any, sums: Any, numbers: Any, ulp: Any) -> Any:
    """float32[n] ``a`` and ``b``."""
    part = np.zeros(4, np.float32)
    first, second = a.view(np.int32), b.view(np.int32)
    for o in range(0, a.shape[0], _BLOCK):
        e = min(a.shape[0], o + _BLOCK)
        largest = _sum_up(a[o:e], b[o:e], part)
        if not _in_range(part, largest):
            _add_exactly(a[o:e], b[o:e], start + o, sums, numbers)
            continue
        if _take(part, largest, e - o, start + o, sums, numbers):
            _lead(a[o:e], b[o:e], largest, start + o, sums, numbers)
        if largest:
            distance, count = _distances(first[o:e], second[o:e])
            numbers[MISMATCH] += count
            if ulp:
                numbers[ULP] = max(numbers[ULP], distance)


@_exact
def add_bfloat16(a: Any, b: Any, start: Any, sums: Any, numbers: Any, ulp: Any) -> Any:
    """The bits of two bfloat16 arrays, uint16[n]; ULPs are kept as those of float32, which are 65536 times as many."""
    part = np.zeros(4, np.float32)
    wide_a, wide_b = np.empty(_BLOCK, np.float32), np.empty(_BLOCK, np.float32)
    first, second = a.view(np.int16), b.view(np.int16)
    for o in range(0, a.shape[0], _BLOCK):
        e = min(a.shape[0], o + _BLOCK)
        k = e - o
        largest = _sum_up_short(a[o:e], b[o:e], part)
        right = _in_range(part, largest)
        leads = right and _take(part, largest, k, start + o, sums, numbers)
        if leads or not right:
            _widen(a[o:e], wide_a.view(np.uint32))
            _widen(b[o:e], wide_b.view(np.uint32))
        if not right:
            _add_exactly(wide_a[:k], wide_b[:k], start + o, sums, numbers)
            continue
        if leads:
            _lead(wide_a[:k], wide_b[:k], largest, start + o, sums, numbers)
        if largest:
            distance, count = _short_distances(first[o:e], second[o:e])
            numbers[MISMATCH] += count
            if ulp:
                numbers[ULP] = max(numbers[ULP], distance << 16)
