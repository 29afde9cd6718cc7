"""Rounding to a coarser float in numpy, exactly. Apart, because hypotheses about precision share it."""

from __future__ import annotations

import numpy as np

BITS = {"bfloat16": 8, "float16": 11, "TF32": 11, "float8_e4m3fn": 4}
"""Significant bits, the hidden one included."""
_LARGEST = {"float16": 65504.0, "float8_e4m3fn": 448.0}
_SMALLEST = {"float16": 2.0**-24, "float8_e4m3fn": 2.0**-9}


def round_to(values: np.ndarray, dtype: str) -> np.ndarray:
    """``values`` rounded to nearest even in ``dtype`` (a key of `BITS`), as float64.

    float16 overflows to inf; float8_e4m3fn saturates, as converters do.
    """
    bits = BITS[dtype]
    with np.errstate(over="ignore", invalid="ignore"):
        fraction, exponent = np.frexp(values)
        rounded = np.asarray(np.ldexp(np.rint(np.ldexp(fraction, bits)), exponent - bits))
        step = _SMALLEST.get(dtype)
        if step is not None:
            tiny = np.abs(rounded) < step * 2.0**bits
            rounded = np.where(tiny, np.rint(values / step) * step, rounded)
    largest = _LARGEST.get(dtype)
    if largest is None:
        return rounded
    beyond = np.copysign(np.inf if dtype == "float16" else largest, rounded)
    return np.asarray(np.where(np.abs(rounded) > largest, beyond, rounded))
