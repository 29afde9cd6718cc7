"""What each code of a one-byte number means. Apart, so that ml_dtypes is needed to check it, not to run it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np


@dataclass(frozen=True)
class FloatFormat:
    """A floating-point format of at most eight bits: [sign] exponent mantissa, in the low bits of a byte."""

    exponent: int
    """Bits of the exponent."""
    mantissa: int
    """Stored bits of the mantissa."""
    bias: int
    """Exponent bias."""
    signed: bool = True
    """Whether there is a sign bit above the exponent."""
    infinite: bool = False
    """IEEE: the largest exponent means infinity or NaN."""
    nan: tuple[int, ...] = ()
    """Codes that are NaN, in a format that is not IEEE."""


FLOATS = {
    "float4_e2m1fn": FloatFormat(2, 1, 1),
    "float6_e2m3fn": FloatFormat(2, 3, 1),
    "float6_e3m2fn": FloatFormat(3, 2, 3),
    "float8_e3m4": FloatFormat(3, 4, 3, infinite=True),
    "float8_e4m3": FloatFormat(4, 3, 7, infinite=True),
    "float8_e4m3b11fnuz": FloatFormat(4, 3, 11, nan=(0x80,)),
    "float8_e4m3fn": FloatFormat(4, 3, 7, nan=(0x7F, 0xFF)),
    "float8_e4m3fnuz": FloatFormat(4, 3, 8, nan=(0x80,)),
    "float8_e5m2": FloatFormat(5, 2, 15, infinite=True),
    "float8_e5m2fnuz": FloatFormat(5, 2, 16, nan=(0x80,)),
    "float8_e8m0fnu": FloatFormat(8, 0, 127, signed=False, nan=(0xFF,)),
}
"""By ml_dtypes name. https://github.com/jax-ml/ml_dtypes#specifications-of-implemented-floating-point-formats"""

INTEGERS = {"int1": 1, "int2": 2, "int4": 4, "uint1": 1, "uint2": 2, "uint4": 4}
"""Bits of the integers that ml_dtypes keeps one to a byte, in its low bits."""


@cache
def float_table(name: str) -> np.ndarray:
    """float32[256]: the number that each code of ``name`` means; bits above the format's are ignored."""
    spec = FLOATS[name]
    codes = np.arange(256)
    mantissa = codes & ((1 << spec.mantissa) - 1)
    exponent = (codes >> spec.mantissa) & ((1 << spec.exponent) - 1)
    # An exponent of 0 means a subnormal number, except in e8m0, which has neither subnormals nor zero.
    normal = (exponent > 0) | (not spec.signed)
    fraction = mantissa / (1 << spec.mantissa) + normal
    numbers = np.ldexp(fraction, np.where(normal, exponent, 1) - spec.bias)
    if spec.infinite:
        special = exponent == (1 << spec.exponent) - 1
        numbers[special] = np.where(mantissa[special] == 0, np.inf, np.nan)
    if spec.signed:
        negative = (codes >> (spec.mantissa + spec.exponent)) & 1 == 1
        numbers[negative] = -numbers[negative]
    numbers[list(spec.nan)] = np.nan
    return _frozen(numbers.astype(np.float32))


@cache
def integer_table(name: str) -> np.ndarray:
    """int8[256] or uint8[256]: the number that each code of ``name`` means, two's complement."""
    bits = INTEGERS[name]
    numbers = np.arange(256) & ((1 << bits) - 1)
    if name.startswith("uint"):
        return _frozen(numbers.astype(np.uint8))
    numbers[numbers >= 1 << (bits - 1)] -= 1 << bits
    return _frozen(numbers.astype(np.int8))


def _frozen(table: np.ndarray) -> np.ndarray:
    table.flags.writeable = False
    return table
