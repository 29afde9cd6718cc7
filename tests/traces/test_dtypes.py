"""Every code of every dtype against ml_dtypes, which the package itself never imports."""

from __future__ import annotations

import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest

from firstdiff.traces import CaptureError, TraceError, storage, unit_roundoff, widen
from firstdiff.traces.codes import FLOATS, INTEGERS
from firstdiff.traces.dtypes import BITS, NATIVE, is_known, stored_dtype

BITS_USED = {"float4_e2m1fn": 4, "float6_e2m3fn": 6, "float6_e3m2fn": 6}


def exotic(name: str) -> np.dtype:
    return np.dtype(getattr(ml_dtypes, name))


def same(found: np.ndarray, expected: np.ndarray) -> bool:
    """Equal numbers, NaN where NaN is, zeros of equal sign."""
    nan = np.isnan(expected)
    if not np.array_equal(np.isnan(found), nan):
        return False
    equal = found[~nan] == expected[~nan]
    return bool(equal.all() and (np.signbit(found) == np.signbit(expected))[~nan].all())


@pytest.mark.parametrize("name", sorted(FLOATS))
def test_all_codes_of_small_floats(name: str) -> None:
    codes = np.arange(1 << BITS_USED.get(name, 8), dtype=np.uint8)
    found = widen(codes, name)
    assert found.dtype == np.float32
    assert same(found, codes.view(exotic(name)).astype(np.float32))


@pytest.mark.parametrize("name", sorted(INTEGERS))
def test_all_codes_of_small_integers(name: str) -> None:
    codes = np.arange(256, dtype=np.uint8)
    assert np.array_equal(widen(codes, name), codes.view(exotic(name)).astype(np.int32))


def test_all_codes_of_bfloat16() -> None:
    codes = np.arange(1 << 16, dtype=np.uint16)
    found = widen(codes, "bfloat16")
    expected = codes.view(ml_dtypes.bfloat16).astype(np.float32)
    assert found.dtype == np.float32
    assert np.array_equal(found.view(np.uint32) >> 16, codes)
    assert same(found, expected)


@pytest.mark.parametrize("name", sorted(BITS))
def test_storage_of_ml_dtypes_is_their_bits(name: str) -> None:
    codes = np.arange(16, dtype=np.uint8).astype(BITS[name]).reshape(4, 4)[:, ::2]
    stored, dtype = storage(np.ascontiguousarray(codes).view(exotic(name)))
    assert (dtype, stored.dtype, stored.shape) == (name, BITS[name], (4, 2))
    assert np.array_equal(stored, codes)


def test_storage_makes_arrays_contiguous_and_keeps_scalars() -> None:
    stored, _ = storage(np.arange(12.0).reshape(3, 4).T)
    assert stored.flags.c_contiguous
    assert stored.shape == (4, 3)
    scalar, dtype = storage(np.array(ml_dtypes.bfloat16(2)))
    assert (scalar.shape, dtype, int(scalar)) == ((), "bfloat16", 0x4000)


def test_storage_is_little_endian() -> None:
    stored, dtype = storage(np.array([1, 2], ">i4"))
    assert (stored.dtype.str, dtype, stored.tolist()) == ("<i4", "int32", [1, 2])


@pytest.mark.parametrize("name", sorted(NATIVE))
def test_native_dtypes_are_stored_as_they_are(name: str) -> None:
    array = np.array([0, 1], name)
    stored, dtype = storage(array)
    assert dtype == name
    assert np.shares_memory(stored, array)
    assert widen(stored, dtype) is stored


def test_storage_refuses_what_is_no_number() -> None:
    with pytest.raises(CaptureError) as caught:
        storage(np.array(["a"]))
    assert str(caught.value) == (
        "An array of dtype str32 cannot be recorded: a trace holds booleans, integers, floats and complex numbers. "
        "Deselect the module that produces it."
    )
    with pytest.raises(CaptureError, match="dtype object cannot be recorded"):
        storage(np.array([None]))


def test_unknown_dtype_is_refused_by_name() -> None:
    assert not is_known("float3")
    with pytest.raises(
        TraceError, match="dtype 'float3' is not one that this version of firstdiff knows"
    ):
        stored_dtype("float3")
    with pytest.raises(TraceError, match="float3"):
        widen(np.zeros(1), "float3")


@pytest.mark.parametrize(
    ("name", "bits"),
    [
        ("float32", 24),
        ("bfloat16", 8),
        ("float16", 11),
        ("float64", 53),
        ("complex64", 24),
        ("float8_e4m3fn", 4),
        ("float8_e5m2", 3),
        ("float8_e4m3fnuz", 4),
    ],
)
def test_unit_roundoff(name: str, bits: int) -> None:
    assert unit_roundoff(name) == 2.0**-bits


@pytest.mark.parametrize("name", sorted(set(FLOATS) | {"bfloat16", "float16", "float32"}))
def test_unit_roundoff_is_half_of_eps(name: str) -> None:
    assert unit_roundoff(name) == float(ml_dtypes.finfo(name).eps) / 2


def test_integers_are_exact() -> None:
    assert unit_roundoff("int64") == unit_roundoff("bool") == unit_roundoff("int4") == 0.0


def test_the_package_does_not_import_ml_dtypes() -> None:
    code = "import sys, firstdiff.traces; print(sorted({'ml_dtypes', 'torch', 'jax', 'pandas'} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
