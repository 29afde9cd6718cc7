"""Every framework, in every way that people run models: captured values against numpy."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
from stack import FRAMEWORKS, WAYS, largest_error, stack_input, stack_weights

ROUNDING = 2e-6
"""Relative L2. float32 rounding of these products is 1e-7; another layer's values differ by 1."""


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_captured_values_are_those_that_numpy_computes(framework, way, record):
    weights, inputs = stack_weights(), [stack_input(0), stack_input(1)]
    subject = importlib.import_module(f"stack_{framework}").build(way, weights)
    steps = [{"x": x} for x in inputs[: 2 if way == "steps" else 1]]
    mode = "eager" if way == "eager" else "jit"
    recorded = record(subject.model, subject.call, steps, mode=mode)
    assert recorded.capture.front_end == framework
    assert recorded.capture.output_check["max_abs"] < 1e-5
    assert recorded.capture.notes == ()
    for step, x in enumerate(inputs[: len(steps)]):
        assert largest_error(recorded, subject, weights, x, step) < ROUNDING


@pytest.mark.parametrize("way", ["jit", "warm"])
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_capturing_twice_gives_the_same_trace_and_leaves_the_model_as_it_was(
    framework, way, record
):
    weights, x = stack_weights(), stack_input()
    subject = importlib.import_module(f"stack_{framework}").build(way, weights)
    before = np.asarray(subject.call(subject.model, x=x))
    first, second = (record(subject.model, subject.call, {"x": x}) for _ in range(2))
    assert list(first.values) == list(second.values)
    for key, value in first.values.items():
        np.testing.assert_array_equal(value, second.values[key])
    assert first.capture.modules == second.capture.modules
    np.testing.assert_array_equal(np.asarray(subject.call(subject.model, x=x)), before)
