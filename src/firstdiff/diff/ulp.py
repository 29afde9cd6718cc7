"""Distance in ULP. Apart, because its definition needs more words than its code.

The ULP distance of two numbers is how many steps from one representable number to the next lie between them. It is
counted in the coarser dtype of the two sides, after rounding the finer side to it (to nearest, ties to even).
+0 and -0 are one number. Pairs in which either number is not finite are left out.
"""

from __future__ import annotations

import numpy as np

from firstdiff.traces.dtypes import unit_roundoff

_BITS: dict[str, type[np.signedinteger]] = {
    "bfloat16": np.int32,
    "float16": np.int16,
    "float32": np.int32,
    "float64": np.int64,
}


def ulp_dtype(reference: str, port: str) -> str | None:
    """The dtype in which ULPs are counted, or None: not two floats of at least 16 bits."""
    if reference not in _BITS or port not in _BITS:
        return None
    return max(reference, port, key=unit_roundoff)


def max_ulp(reference: np.ndarray, port: np.ndarray, dtype: str) -> float:
    """Largest ULP distance in ``dtype`` over two arrays of finite numbers; 0.0 when they are empty."""
    if reference.size == 0:
        return 0.0
    ours, theirs = _ordered(reference, dtype), _ordered(port, dtype)
    apart = np.abs(
        ours.astype(np.float64) - theirs.astype(np.float64)
    )  # rounded, but cannot overflow
    near = (ours < 0) == (theirs < 0)
    return float(np.where(near, np.abs(np.where(near, ours - theirs, 0)), apart).max())


def _ordered(values: np.ndarray, dtype: str) -> np.ndarray:
    """Integers in the order of the numbers, one apart for neighbours; both zeros are 0."""
    if dtype == "bfloat16":
        bits = round_bfloat16(np.ascontiguousarray(values, np.float32)) >> np.int32(16)
        lowest = -(1 << 15)
    else:
        with np.errstate(over="ignore"):
            bits = np.ascontiguousarray(values, dtype).view(_BITS[dtype])
        lowest = np.iinfo(bits.dtype).min
    wide = bits.astype(np.int64)
    return np.where(wide < 0, lowest - wide, wide)


def round_bfloat16(values: np.ndarray) -> np.ndarray:
    """int32 bits of float32 ``values`` rounded to bfloat16, nearest even; the low 16 bits are zero."""
    bits = values.view(np.uint32)
    rounded = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    return (rounded & np.uint32(0xFFFF0000)).view(np.int32)
