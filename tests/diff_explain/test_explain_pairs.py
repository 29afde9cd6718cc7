"""Hand-made pairs: one computation, one mistake, no model around it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from firstdiff.diff import Diff
from firstdiff.diff.explain.activations import FUNCTIONS
from firstdiff.diff.explain.norms import Norm, apply

Compare = Callable[..., Diff]
RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(2, 48, 32)) * RANDOM.lognormal(sigma=1, size=(2, 48, 1))
SCALE, SHIFT = RANDOM.lognormal(sigma=0.3, size=32), RANDOM.normal(size=32)


def module(y: np.ndarray, x: np.ndarray = X, name: str = "block") -> list[Any]:
    return [(name, "input", "x", x), (name, "output", "", y)]


def cause(found: Diff) -> str | None:
    assert found.explanation is not None
    return found.explanation.cause


@pytest.mark.parametrize("wrong", [name for name in FUNCTIONS if name != "SiLU"])
def test_activations(wrong: str, pair: Compare) -> None:
    found = pair(module(FUNCTIONS["SiLU"](X)), module(FUNCTIONS[wrong](X)))
    assert cause(found) == "activation function"
    assert f"applying {wrong} instead of SiLU".lower() in found.cause.lower()


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        (Norm(1e-3, centred=True), "norm epsilon"),
        (Norm(0.0321, centred=True), "norm epsilon"),
        (Norm(1e-5), "RMS norm for layer norm"),
        (Norm(1e-5, centred=True, scale="one plus"), "norm scale convention"),
        (Norm(1e-5, centred=True, scale="none"), "norm scale missing"),
        (Norm(1e-5, centred=True, shifted=False), "norm bias missing"),
        (Norm(1e-5, centred=True, unbiased=True), "unbiased variance"),
    ],
)
def test_layer_norms(wrong: Norm, named: str, pair: Compare) -> None:
    right = Norm(1e-5, centred=True)
    ours, theirs = (module(apply(0.1 * X, spec, SCALE, SHIFT), 0.1 * X) for spec in (right, wrong))
    assert cause(pair(ours, theirs, layer_norm_eps=1e-5)) == named


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (lambda y: y * 5.656854249, "scale"),
        (lambda y: y + SHIFT, "constant offset"),
        (lambda y: y * SCALE, "channel scale"),
        (lambda y: y * RANDOM.lognormal(size=(2, 48, 1)), "token scale"),
        (lambda y: y[..., ::-1], "channel permutation"),
        (lambda y: np.roll(y, 1, axis=1), "tokens shifted"),
    ],
)
def test_signatures_of_a_tensor_that_no_module_explains(
    value: Callable[[np.ndarray], np.ndarray], named: str, pair: Compare
) -> None:
    y = np.random.default_rng(1).normal(size=(2, 48, 32))
    assert cause(pair(module(y), module(value(y)))) == named


def test_a_scale_is_named_by_the_sizes_of_the_model(pair: Compare) -> None:
    y = np.random.default_rng(1).normal(size=(2, 48, 32))
    found = pair(module(y), module(y * np.sqrt(32)), hidden_size=32)
    assert "multiplying everything by 5.65685 = sqrt(hidden_size)" in found.cause.lower()


@pytest.mark.parametrize(
    ("operands", "named"),
    [
        ("branch", "residual connection"),
        ("stream+2*branch", "residual connection"),
        ("norm+branch", "residual connection"),
        ("stream*branch", None),
    ],
)
def test_sums(operands: str, named: str | None, pair: Compare) -> None:
    a, b, c = np.random.default_rng(2).normal(size=(3, 2, 48, 32))
    made = {"branch": b, "stream+2*branch": a + 2 * b, "norm+branch": c + b, "stream*branch": a * b}
    before = [("stream", "output", "", a), ("norm", "output", "", c), ("branch", "output", "", b)]
    ours, theirs = ([*before, ("next", "input", "x", y)] for y in (a + b, made[operands]))
    assert cause(pair(ours, theirs)) == named


def test_products(pair: Compare) -> None:
    gate, up = np.random.default_rng(3).normal(size=(2, 2, 48, 32))
    silu = FUNCTIONS["SiLU"]
    before = [
        ("gate", "output", "", gate),
        ("act", "output", "", silu(gate)),
        ("up", "output", "", up),
    ]
    ours, theirs = (
        [*before, ("down", "input", "x", y)] for y in (silu(gate) * up, gate * silu(up))
    )
    assert cause(pair(ours, theirs)) == "activation on the wrong branch"


def test_a_module_that_was_skipped(pair: Compare) -> None:
    a, b = np.random.default_rng(4).normal(size=(2, 2, 48, 32))
    before = [("block", "output", "", a), ("norm", "output", "", b)]
    ours, theirs = ([*before, ("head", "input", "x", y)] for y in (b, a))
    found = pair(ours, theirs)
    assert cause(found) == "module skipped"
    assert "passing on the result of block instead of the result of norm" in found.cause.lower()


def test_noise_is_nobody_s_fault(pair: Compare) -> None:
    y = FUNCTIONS["SiLU"](X)
    noisy = y + 0.3 * np.random.default_rng(5).normal(size=y.shape)
    found = pair(module(y), module(noisy))
    assert cause(found) is None
    assert found.explanation is not None
    assert len(found.explanation.hints) <= 3


def test_nothing_is_tried_where_the_reference_is_not_reproduced(pair: Compare) -> None:
    """A function of the input that is in no table: the port's is in the table, and must not be named for it."""
    odd = np.sin(3 * X)
    found = pair(module(odd), module(FUNCTIONS["ReLU"](X)))
    assert cause(found) is None


def test_infinities_where_the_dtype_ends(pair: Compare) -> None:
    y = np.random.default_rng(6).normal(size=(2, 48, 32))
    wrong = y.copy()
    wrong[0, 3, 5] = np.nan
    found = pair(module(y), module(wrong))
    assert found.explanation is not None
    assert (
        found.explanation.sentence == "not certain. 1 of 3072 elements are not finite in the port."
    )
