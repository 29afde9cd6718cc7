"""Logical dtypes: how each is stored, and what its bits mean. The one place that knows about bfloat16 and float8.

A *logical dtype* is a name, numpy's or ml_dtypes' (`float32`, `bfloat16`, `float8_e4m3fn`). What numpy lacks is
stored as unsigned bits of the same item size. ml_dtypes arrays are recognised by that name and never imported.
"""

from __future__ import annotations

import numpy as np

from firstdiff.traces.codes import FLOATS, INTEGERS, float_table, integer_table
from firstdiff.traces.errors import CaptureError, TraceError

NATIVE = {
    name: np.dtype(name)
    for name in (
        *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
        *("float16", "float32", "float64", "complex64", "complex128"),
    )
}
"""Logical dtypes that numpy has, stored as they are (little-endian)."""

BITS = {"bfloat16": np.dtype("uint16")} | dict.fromkeys((*FLOATS, *INTEGERS), np.dtype("uint8"))
"""Logical dtypes that numpy lacks, with the dtype of their stored bits."""

# Spelled by their characters, numpy gives its own objects on a little-endian machine: comparing is then cheap.
_STORED = {
    name: np.dtype(f"<{dtype.kind}{dtype.itemsize}") for name, dtype in (NATIVE | BITS).items()
}
_ROUNDOFF = (
    {"float16": 2.0**-11, "float32": 2.0**-24, "float64": 2.0**-53, "bfloat16": 2.0**-8}
    | {"complex64": 2.0**-24, "complex128": 2.0**-53}
    | {name: 2.0 ** -(spec.mantissa + 1) for name, spec in FLOATS.items()}
)


def is_known(dtype: str) -> bool:
    """Whether ``dtype`` is a logical dtype that a trace can hold."""
    return dtype in _STORED


def stored_dtype(dtype: str) -> np.dtype:
    """The little-endian numpy dtype in which ``dtype`` is stored. Raises `TraceError` for an unknown name."""
    try:
        return _STORED[dtype]
    except KeyError:
        raise TraceError(
            f"dtype {dtype!r} is not one that this version of firstdiff knows "
            f"({', '.join(sorted(_STORED))}); a newer version may."
        ) from None


def storage(array: np.ndarray) -> tuple[np.ndarray, str]:
    """The storage array of a numpy or ml_dtypes ``array``, and its logical dtype.

    The result is C-contiguous, of the same shape, and shares memory with ``array`` where it can: bits for
    ml_dtypes, native arrays as they are. Raises `CaptureError` for a dtype that a trace cannot hold.
    """
    name = array.dtype.name
    if name not in _STORED or array.dtype.hasobject:
        raise CaptureError(
            f"An array of dtype {name} cannot be recorded: a trace holds booleans, integers, floats and complex "
            "numbers. Deselect the module that produces it."
        )
    contiguous = np.asarray(array, order="C")
    if name in BITS:
        return contiguous.view(_STORED[name]), name
    return contiguous.astype(_STORED[name], copy=False), name


def as_stored(array: np.ndarray, dtype: str, place: str) -> np.ndarray:
    """``array``, which comes from ``place``, as ``dtype`` is stored: C-contiguous and little-endian.

    Raises `CaptureError` when it is no storage of ``dtype``.
    """
    expected = stored_dtype(dtype)
    if array.dtype not in (expected, expected.newbyteorder()):
        raise CaptureError(
            f"{place}: an array of {array.dtype} is no storage of {dtype}, which is {expected}."
        )
    return np.asarray(array, expected, order="C")


def widen(stored: np.ndarray, dtype: str) -> np.ndarray:
    """The numbers of a storage array, exactly, in the same shape.

    bfloat16 and the small floats become float32, integers of fewer than 8 bits int8 or uint8; everything else
    is returned as it is. Raises `TraceError` for an unknown dtype.
    """
    if dtype in NATIVE:
        return stored
    if dtype == "bfloat16":
        return np.asarray(np.left_shift(stored, 16, dtype=np.uint32).view(np.float32))
    if dtype in FLOATS:
        return np.asarray(float_table(dtype)[stored])
    if dtype in INTEGERS:
        return np.asarray(integer_table(dtype)[stored])
    stored_dtype(dtype)
    raise AssertionError(dtype)


def unit_roundoff(dtype: str) -> float:
    """Largest relative error of rounding to ``dtype``: 2**-(stored mantissa bits + 1); 0.0 for integers and booleans.

    2**-24 for float32, 2**-8 for bfloat16, 2**-4 for float8_e4m3fn. For complex dtypes, that of a component.
    """
    stored_dtype(dtype)
    return _ROUNDOFF.get(dtype, 0.0)


COARSE = 1e-4
"""Dtypes with a larger unit roundoff are narrow: bfloat16, float16, float8."""
