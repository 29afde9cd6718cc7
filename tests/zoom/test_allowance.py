"""What two values inside a module may differ by: the fixed tolerance, and local floors where they are known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from firstdiff.diff.inside.allowance import Allowance, fixed_tolerance
from firstdiff.diff.inside.shapes import are_repeated, in_one_shape
from firstdiff.diff.local import LocalFloor
from firstdiff.traces import open_trace
from firstdiff.traces.spread import error_spread

UNIT = 2.0**-8


@pytest.fixture(scope="module")
def numbers() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((6, 32)).astype(np.float32)


@pytest.fixture(scope="module")
def activation(reference, numbers):
    with open_trace(reference) as trace:
        some = trace.activations[-1]
    return replace(some, shape=numbers.shape)


def floor_of(numbers: np.ndarray, relative: float) -> LocalFloor:
    """As if rounding moved every number by ``relative``."""
    return LocalFloor(UNIT, error_spread(numbers * (1 + relative), numbers))


@pytest.mark.parametrize(("factor", "equal"), [(2.5, True), (6.0, False)])
def test_a_measured_floor_decides_in_a_narrow_dtype(activation, numbers, factor, equal):
    allowance = Allowance("bfloat16", lambda _a: floor_of(numbers, 0.002))
    value = numbers * (1 + factor * 0.002)
    assert np.linalg.norm(value - numbers) < fixed_tolerance("bfloat16") * np.linalg.norm(numbers)
    assert allowance.close(activation, numbers, value) is equal


def test_one_wrong_row_shows(activation, numbers):
    allowance = Allowance("bfloat16", lambda _a: floor_of(numbers, 0.002))
    value = numbers.copy()
    value[3] *= 1.03
    assert not allowance.close(activation, numbers, value)


def test_in_float32_a_floor_only_widens(activation, numbers):
    fixed = Allowance("float32")
    wide = Allowance("float32", lambda _a: replace(floor_of(numbers, 1e-3), unit=2.0**-24))
    assert fixed.close(activation, numbers, numbers * (1 + 2e-5))
    assert not fixed.close(activation, numbers, numbers * (1 + 2e-3))
    assert wide.close(activation, numbers, numbers * (1 + 2e-3))


def test_what_is_not_finite_has_to_be_so_on_both_sides(activation, numbers):
    hole = numbers.copy()
    hole[0, 0] = np.nan
    assert not Allowance("float32").close(activation, numbers, hole)
    assert Allowance("float32").close(activation, hole, hole)


def test_rows_repeated_over_the_batch_are_those_rows():
    once = np.arange(6.0).reshape(1, 2, 3)
    twice = np.repeat(once, 2, axis=0)
    assert are_repeated((2, 2, 3), (1, 2, 3))
    assert not are_repeated((2, 2, 3), (2, 2, 3))
    ours, theirs = in_one_shape(twice, once)
    assert np.array_equal(ours, theirs)
    twice[1, 0, 0] = 7
    assert in_one_shape(twice, once) is None
