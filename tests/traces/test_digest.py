"""Statistics against plain numpy; what does and does not depend on layout; numbers at the ends of the range."""

from __future__ import annotations

import math
from dataclasses import astuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firstdiff.traces import Digest, digest, widen
from firstdiff.traces.dtypes import BITS, stored_dtype
from firstdiff.traces.sketch import BLOCK, PERIOD


def statistics(found: Digest) -> tuple[float, ...]:
    return astuple(found)[:8]


def expected(numbers: np.ndarray) -> tuple[float, ...]:
    """The definition, spelled out."""
    numbers = numbers.astype(np.float64).reshape(-1)
    finite = numbers[np.isfinite(numbers)]
    counts = (np.isnan(numbers).sum(), (numbers == np.inf).sum(), (numbers == -np.inf).sum())
    if not finite.size:
        return (numbers.size, *counts, 0, 0, 0, 0)
    rms = math.sqrt(np.mean(finite**2))
    return (numbers.size, *counts, finite.mean(), rms, finite.min(), finite.max())


@pytest.mark.parametrize(
    "size", [0, 1, 5, PERIOD - 1, PERIOD, PERIOD + 1, BLOCK, BLOCK + 7, 3 * BLOCK]
)
@pytest.mark.parametrize(
    "dtype", ["float32", "bfloat16", "float64", "float16", "int64", "uint8", "bool"]
)
def test_statistics(dtype: str, size: int) -> None:
    rng = np.random.default_rng(size)
    stored = (rng.standard_normal(size) * 40).astype(np.float32)
    if dtype == "bfloat16":
        array = (stored.view(np.uint32) >> 16).astype(np.uint16)
    else:
        array = np.abs(stored).astype(dtype) if dtype == "uint8" else stored.astype(dtype)
    found = statistics(digest(array, dtype))
    assert found == pytest.approx(expected(widen(array, dtype)), rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("dtype", sorted(set(BITS) - {"bfloat16"}))
def test_statistics_of_every_small_code(dtype: str) -> None:
    codes = np.arange(256, dtype=stored_dtype(dtype))
    assert statistics(digest(codes, dtype)) == pytest.approx(
        expected(widen(codes, dtype)), rel=1e-12
    )


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(width=32), max_size=40))
def test_any_float32(numbers: list[float]) -> None:
    array = np.array(numbers, np.float32)
    assert statistics(digest(array, "float32")) == pytest.approx(
        expected(array), rel=1e-9, abs=1e-300
    )


def test_non_finite_numbers_are_counted_and_left_out() -> None:
    array = np.array([1, np.nan, np.inf, -np.inf, -np.inf, 3], np.float32)
    found = digest(array, "float32")
    assert statistics(found) == (6, 1, 1, 2, 2.0, math.sqrt(5), 1.0, 3.0)
    cleaned = digest(np.array([1, 0, 0, 0, 0, 3], np.float32), "float32")
    assert found.sketch is not None
    assert cleaned.sketch is not None
    assert np.array_equal(found.sketch, cleaned.sketch)


def test_a_late_block_of_nothing_finite_changes_only_counts() -> None:
    array = np.full(BLOCK + 3, 2.0, np.float32)
    array[BLOCK:] = np.nan
    assert statistics(digest(array, "float32")) == (BLOCK + 3, 3, 0, 0, 2.0, 2.0, 2.0, 2.0)


def test_complex_numbers_are_their_parts() -> None:
    array = np.array([3 + 4j, complex(math.inf, 1)], np.complex64)
    found = digest(array, "complex64")
    assert statistics(found) == pytest.approx((2, 0, 1, 0, 8 / 3, math.sqrt(26 / 3), 1.0, 4.0))


def test_statistics_do_not_depend_on_layout_and_the_rest_does() -> None:
    array = np.random.default_rng(0).standard_normal((64, 96)).astype(np.float32)
    here, there = digest(array, "float32"), digest(np.ascontiguousarray(array.T), "float32")
    assert statistics(here) == pytest.approx(statistics(there), rel=1e-12)
    assert here.checksum != there.checksum
    assert not np.allclose(here.sketch, there.sketch)


@pytest.mark.parametrize("scale", [1e-200, 1e-310, 1e200, 1e308])
def test_numbers_whose_squares_leave_the_range(scale: float) -> None:
    array = np.array([1.0, -0.5, 0.25, 0.0]) * scale
    found = digest(array, "float64")
    assert found.rms == pytest.approx(math.sqrt((1 + 0.25 + 0.0625) / 4) * scale, rel=1e-6)
    assert found.mean == pytest.approx(0.1875 * scale, rel=1e-6)
    assert found.sketch is not None
    assert np.isfinite(found.sketch).all()


def test_sums_that_overflow_stay_finite() -> None:
    found = digest(np.full(10 * PERIOD, np.finfo(np.float64).max), "float64")
    assert found.mean == found.rms == found.max == np.finfo(np.float64).max
    assert found.sketch is not None
    assert np.isfinite(found.sketch).all()


def test_integers_beyond_float64_are_numbers_too() -> None:
    found = digest(np.array([2**63 - 1, -(2**63)]), "int64")
    assert (found.min, found.max) == (-(2.0**63), 2.0**63)
