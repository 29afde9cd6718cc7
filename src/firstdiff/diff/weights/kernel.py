"""The fast way of hashing: one pass over a matrix for its row sums, column sums and moments. numba, where installed.

The same numbers as `grain.hashes` and numpy's sums give; the sums of integers are exact in any order. Extremes are
taken over bit patterns as integers, which vectorises and finds what is not finite.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np
from numba import njit

INFINITE = 0x7F800000
"""Keys of extremes at or beyond this belong to infinities and NaN."""
EXACT, ROUNDED, HALF = 0, 1, 2
"""float32 as it is; float32 rounded to bfloat16; bfloat16 bits."""

_Function = TypeVar("_Function", bound=Callable[..., Any])


def _fast(function: _Function) -> _Function:
    """Compile ``function``; float sums may be reordered, which is what turns them into vector code."""
    compiled = njit(
        nogil=True, cache=True, error_model="numpy", fastmath={"reassoc", "nsz", "contract"}
    )
    return cast("_Function", compiled(function))


@_fast
def _keys(bits: Any, kind: Any, out: Any) -> Any:
    """Hashes of one row of uint32 ``bits`` into uint32 ``out``: `grain._mix` of the keys that `grain._bits` gives."""
    if kind == ROUNDED:
        for i in range(bits.shape[0]):
            b = bits[i]
            out[i] = (b + np.uint32(0x7FFF) + ((b >> np.uint32(16)) & np.uint32(1))) >> np.uint32(
                16
            )
    elif kind == HALF:
        for i in range(bits.shape[0]):
            out[i] = bits[i] >> np.uint32(16)
    else:
        for i in range(bits.shape[0]):
            out[i] = bits[i]
    for i in range(out.shape[0]):
        x = np.uint32(out[i] + np.uint32(1))  # numba widens: every step is cut back to 32 bits
        x = np.uint32(x ^ (x >> np.uint32(16)))
        x = np.uint32(x * np.uint32(0x7FEB352D))
        x = np.uint32(x ^ (x >> np.uint32(15)))
        x = np.uint32(x * np.uint32(0x846CA68B))
        x = np.uint32(x ^ (x >> np.uint32(16)))
        out[i] = x


@_fast
def _add_up(hashes: Any, columns: Any) -> Any:
    """Add a row of hashes to the column sums (uint64); their own sum."""
    total = np.uint64(0)
    for i in range(hashes.shape[0]):
        h = np.uint64(hashes[i])
        columns[i] += h
        total += h
    return total


@_fast
def _moments(values: Any, out: Any) -> Any:
    """Sum and sum of squares of one row of float32, into float64[2]."""
    total, squares = np.float32(0), np.float32(0)
    for i in range(values.shape[0]):
        x = values[i]
        total += x
        squares += x * x
    out[0] += total
    out[1] += squares


@_fast
def _extremes(bits: Any, out: Any) -> Any:
    """Least and largest ordered key of one row of int32 float bits, into int64[2]."""
    low, high = np.int32(0x7FFFFFFF), np.int32(-0x80000000)
    for i in range(bits.shape[0]):
        b = bits[i]
        key = b ^ ((b >> np.int32(31)) & np.int32(0x7FFFFFFF))
        low = min(low, key)
        high = max(high, key)
    out[0] = min(out[0], np.int64(low))
    out[1] = max(out[1], np.int64(high))


@_fast
def _scan(
    bits: Any, signed: Any, values: Any, kind: Any, rows: Any, columns: Any, sums: Any, ends: Any
) -> Any:
    work = np.empty(bits.shape[1], np.uint32)
    for r in range(bits.shape[0]):
        _keys(bits[r], kind, work)
        rows[r] += _add_up(work, columns)
        _moments(values[r], sums)
        _extremes(signed[r], ends)


def scan(
    bits: np.ndarray, kind: int, rows: np.ndarray, columns: np.ndarray
) -> tuple[float, float, float, float] | None:
    """Add the hashes of uint32[r, c] float32 ``bits`` to ``rows`` (uint64[r]) and ``columns`` (uint64[c]).

    Returns (sum, sum of squares, least, largest) of the values; None when some are not finite, or when the squares
    leave float32's range: then numpy is asked for them.
    """
    sums, ends = np.zeros(2), np.array([0x7FFFFFFF, -0x80000000], dtype=np.int64)
    _scan(bits, bits.view(np.int32), bits.view(np.float32), kind, rows, columns, sums, ends)
    if ends[1] >= INFINITE or ends[0] < -INFINITE or not np.isfinite(sums[1]):
        return None
    low, high = (_number(int(key)) for key in ends)
    return float(sums[0]), float(sums[1]), low, high


def _number(key: int) -> float:
    """The float of an ordered key."""
    bits = key if key >= 0 else key ^ 0x7FFFFFFF
    return float(np.array([bits], dtype=np.int64).astype(np.int32).view(np.float32)[0])
