"""Activation functions: one for another, applied to the recorded inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import erf, pi, sqrt
from typing import TYPE_CHECKING

import numpy as np

from firstdiff.diff.explain.hypothesis import Hypothesis

if TYPE_CHECKING:
    from firstdiff.diff.explain.scene import Scene

Function = Callable[[np.ndarray], np.ndarray]


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return np.asarray(0.5 * (1 + np.tanh(0.5 * x)))


def _gelu(x: np.ndarray) -> np.ndarray:
    found = np.asarray(np.frompyfunc(erf, 1, 1)(x / sqrt(2)), np.float64)
    return np.asarray(0.5 * x * (1 + found))


def _gelu_tanh(x: np.ndarray) -> np.ndarray:
    return np.asarray(0.5 * x * (1 + np.tanh(sqrt(2 / pi) * (x + 0.044715 * x**3))))


def _softplus(x: np.ndarray) -> np.ndarray:
    return np.asarray(np.logaddexp(0, x))


FUNCTIONS: dict[str, Function] = {
    "SiLU": lambda x: x * _sigmoid(x),
    "GELU": _gelu,
    "GELU by tanh": _gelu_tanh,
    "quick GELU": lambda x: x * _sigmoid(1.702 * x),
    "ReLU": lambda x: np.maximum(x, 0),
    "squared ReLU": lambda x: np.maximum(x, 0) ** 2,
    "leaky ReLU": lambda x: np.where(x > 0, x, 0.01 * x),
    "ELU": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
    "tanh": np.tanh,
    "sigmoid": _sigmoid,
    "softplus": _softplus,
    "Mish": lambda x: x * np.tanh(_softplus(x)),
    "hard swish": lambda x: x * np.clip(x + 3, 0, 6) / 6,
    "no function": lambda x: x,
}
"""Elementwise functions by the name that people know, float64 to float64. A row more is a function more."""


def activations(scene: Scene) -> Iterator[Hypothesis]:
    """Hypotheses for the result of an activation function."""
    given = scene.inputs()
    if len(given) != 1 or given[0].shape != scene.target.shape:
        return
    name = recognise(scene)
    if name is None:
        return
    x = scene.given(given[0])
    null = FUNCTIONS[name](x)
    for other, function in FUNCTIONS.items():
        if other != name:
            yield Hypothesis(
                "activation function", f"applying {other} instead of {name}", function(x), null
            )


def recognise(scene: Scene) -> str | None:
    """The function that makes the reference's result of its input; None when none does, or the input itself."""
    x = scene.recorded(scene.inputs()[0])
    with np.errstate(over="ignore", invalid="ignore"):
        misses = {name: scene.misses(f(x)) for name, f in FUNCTIONS.items()}
    best = min(misses, key=lambda name: misses[name])
    return best if misses[best] < 3 and best != "no function" else None
