"""Grains: the dtypes to which values are rounded before they are compared, and a hash of each value.

A float32 copy of bfloat16 weights equals them, and so does a bfloat16 copy of float32 weights after rounding: both are
compared at the coarser grain. Hashes are summed, so that the sum over a set of elements does not depend on their order.
"""

from __future__ import annotations

import numpy as np

from firstdiff.traces.dtypes import NATIVE, widen

FINEST = "float32"
"""Wider dtypes are compared as float32."""
COARSE = ("bfloat16", "float16")
INTEGER = "integer"
GRAINS = (FINEST, *COARSE, INTEGER)
"""Finest first."""

_MULTIPLIERS = (np.uint32(0x7FEB352D), np.uint32(0x846CA68B))
_SHIFTS = (np.uint32(16), np.uint32(15))
"""A bijection of 32 bits with little bias: https://github.com/skeeto/hash-prospector, `lowbias32`."""


def is_integer(dtype: str) -> bool:
    """Whether values of ``dtype`` are whole numbers or truth values."""
    return dtype == "bool" or dtype.startswith(("int", "uint"))


def numbers(stored: np.ndarray, dtype: str) -> np.ndarray:
    """The numbers of a storage array: float32 for floats of at most 32 bits, float64, or integers."""
    values = widen(stored, dtype)
    if is_integer(dtype) or values.dtype in (np.float32, np.float64):
        return values
    if values.dtype.kind == "c":
        return np.asarray(np.abs(values))
    return values.astype(np.float32)


def round_to(values: np.ndarray, grain: str) -> np.ndarray:
    """``values`` rounded to the nearest of ``grain``, ties to even, as float32 (integers: as int64)."""
    if grain == INTEGER:
        return values.astype(np.int64, copy=False)
    values = values.astype(np.float32, copy=False)
    if grain == "bfloat16":
        return (_bfloat16_bits(values) << np.uint32(16)).view(np.float32)
    if grain == "float16":
        with np.errstate(over="ignore"):
            return values.astype(np.float16).astype(np.float32)
    return values


def hashes(stored: np.ndarray, dtype: str, grain: str) -> np.ndarray:
    """Hash of each element at ``grain``: whole numbers below 2**32 as float64, in the same shape.

    float64, because sums of fewer than 2**21 of them are exact whatever their order, and quick along any axis.
    """
    return _mix(_bits(stored, dtype, grain)).astype(np.float64)


def _bits(stored: np.ndarray, dtype: str, grain: str) -> np.ndarray:
    """uint32 keys of our own: equal values at ``grain`` have equal keys."""
    if dtype == grain == "bfloat16":
        return stored.astype(np.uint32)
    values = numbers(stored, dtype)
    if grain == INTEGER:
        wide = values.astype(np.int64).view(np.uint64)
        return (wide ^ (wide >> np.uint64(32))).astype(np.uint32)
    if grain == "bfloat16":
        return _bfloat16_bits(values.astype(np.float32, copy=False))
    if grain == "float16":
        with np.errstate(over="ignore"):
            return values.astype(np.float16).view(np.uint16).astype(np.uint32)
    return np.array(values, dtype=np.float32, order="C").view(np.uint32)


def effective(values: np.ndarray, dtype: str) -> str:
    """The coarsest grain that holds ``values``, a sample of a parameter of ``dtype``, exactly."""
    if is_integer(dtype):
        return INTEGER
    if dtype in COARSE:
        return dtype
    if dtype not in NATIVE:
        return "bfloat16"  # float8: exact in bfloat16
    sample = values.astype(np.float32, copy=False)
    for grain in COARSE:
        if np.array_equal(round_to(sample, grain), values, equal_nan=True):
            return grain
    return FINEST


def _bfloat16_bits(values: np.ndarray) -> np.ndarray:
    bits = np.ascontiguousarray(values).view(np.uint32)
    rounded = bits >> np.uint32(16)
    rounded &= np.uint32(1)
    rounded += np.uint32(0x7FFF)
    rounded += bits
    rounded >>= np.uint32(16)
    return rounded


def _mix(keys: np.ndarray) -> np.ndarray:
    """Shuffle uint32 keys one to one, in place."""
    keys += np.uint32(1)  # zero would stay zero
    keys ^= keys >> _SHIFTS[0]
    keys *= _MULTIPLIERS[0]
    keys ^= keys >> _SHIFTS[1]
    keys *= _MULTIPLIERS[1]
    keys ^= keys >> _SHIFTS[0]
    return keys
