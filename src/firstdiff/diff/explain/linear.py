"""Linear layers: the kernel transposed, another module's, unrelated or rounded; the bias missing or doubled.

Neither kernel nor bias is in the trace. With more tokens than input features both are inferred from the reference's
recorded inputs and results by least squares; what that inference is uncertain by is carried to every hypothesis.
With fewer tokens this family says nothing, and comparing the weights themselves has to.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import sqrt
from typing import TYPE_CHECKING

import numpy as np

from firstdiff.diff.explain.hypothesis import Change, Hypothesis
from firstdiff.diff.explain.rounding import round_to
from firstdiff.diff.explain.scene import TINY, Scene, norm

if TYPE_CHECKING:
    from collections.abc import Iterator

    from firstdiff.traces.schema import Activation

SPARE = 8
"""Tokens beyond the number of unknowns that an inference needs."""
PARTS = (2, 4, 8)
"""Numbers of partial sums that are tried."""
MOST = 4096
"""Input features beyond which no kernel is inferred."""
CHANGES = (
    Change("bias missing", "leaving out the bias"),
    Change("bias doubled", "adding the bias twice"),
    Change("kernel transposed", "using the kernel without transposing it"),
    Change("kernel transposed", "reshaping the kernel instead of transposing it"),
    Change("weights swapped", "using the kernel and bias of another module"),
    Change("bias swapped", "adding the bias of another module"),
    Change("low precision", "rounding the kernel to bfloat16", precision=True),
    Change("low precision", "rounding the kernel to float16", precision=True),
    Change("low precision", "rounding the kernel to float8_e4m3fn", precision=True),
    Change("low precision", "rounding the kernel to int8 per output channel", precision=True),
    Change("low precision", "rounding inputs and kernel to bfloat16", precision=True),
    Change("low precision", "rounding inputs and kernel to TF32", precision=True),
    Change("low precision", "adding 2 partial sums that are rounded to bfloat16", precision=True),
    Change("low precision", "adding 4 partial sums that are rounded to bfloat16", precision=True),
    Change("low precision", "adding 8 partial sums that are rounded to bfloat16", precision=True),
    Change("bias permuted", "adding the bias in another order"),
)
"""What is tried."""


@dataclass(frozen=True)
class Linear:
    """A linear layer as inferred."""

    kernel: np.ndarray
    """[in, out]."""
    bias: np.ndarray
    """[out]; zeros when there is none."""
    spread: np.ndarray
    """[in + 1, in + 1]: inverse of the inputs' Gram matrix, a column of ones last."""
    sigma: float
    """rms of one element's rounding error."""

    @property
    def blur(self) -> float:
        """Relative L2 error of the inferred kernel."""
        spread = max(float(np.trace(self.spread[:-1, :-1])), 0.0) * self.kernel.shape[1]
        return self.sigma * sqrt(spread) / max(norm(self.kernel), TINY)

    @property
    def has_bias(self) -> bool:
        """Whether the inferred bias is more than the inference is uncertain by."""
        doubt = sqrt(max(float(self.spread[-1, -1]), 0.0) * self.bias.size)
        return norm(self.bias) > 8 * self.sigma * doubt

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """``x`` [..., in] -> [..., out]."""
        return np.asarray(x @ self.kernel + self.bias)

    def noise(self, x: np.ndarray) -> float:
        """L2 norm of the error that the inference brings into results of ``x`` [rows, in], kernel in place."""
        wide = np.column_stack([x, np.ones(len(x))])
        return self.sigma * sqrt(
            max(float(((wide @ self.spread) * wide).sum()), 0.0) * self.kernel.shape[1]
        )

    def noise_transposed(self, x: np.ndarray) -> float:
        """The same when inputs meet the kernel's outputs: sums over independent errors of [i, j] in j."""
        return self.sigma * norm(x) * sqrt(max(float(np.trace(self.spread[:-1, :-1])), 0.0))


def linear(scene: Scene) -> Iterator[Hypothesis]:
    """Hypotheses for the result of a linear layer."""
    given = scene.inputs()
    if len(given) != 1:
        return
    yield from _same_input(scene, given[0])
    yield from _kept_bias(scene)
    layer = fit(scene, scene.target, given[0])
    if layer is None:
        return
    x = scene.given(given[0])
    keep = scene.valid.reshape(-1, scene.target.shape[-1]).all(axis=1)
    rows, null = x.reshape(-1, x.shape[-1])[keep], layer(x)
    noise = layer.noise(rows)
    if layer.has_bias:
        yield Hypothesis("bias missing", CHANGES[0].words, null - layer.bias, null, noise)
        yield Hypothesis("bias doubled", CHANGES[1].words, null + layer.bias, null, noise)
        yield from _permuted_bias(scene, layer, null, noise)
    if layer.kernel.shape[0] == layer.kernel.shape[1]:
        wide = layer.noise_transposed(rows)
        yield Hypothesis(
            "kernel transposed", CHANGES[2].words, x @ layer.kernel.T + layer.bias, null, wide
        )
    else:
        wrong = layer.kernel.T.reshape(layer.kernel.shape)
        wide = layer.noise_transposed(rows)
        yield Hypothesis("kernel transposed", CHANGES[3].words, x @ wrong + layer.bias, null, wide)
    yield from _others(scene, layer, x, rows, null)
    yield from _precision(layer, x, null, noise)


def _kept_bias(scene: Scene) -> Iterator[Hypothesis]:
    """The bias as the reference's trace keeps it: exact, and needing no tokens to infer it from."""
    if not re.search("linear|dense|conv1d", scene.target.class_name, re.IGNORECASE):
        return
    bias = scene.parameter(f"{scene.target.key.path}.bias")
    if bias is None or bias.shape != scene.target.shape[-1:] or not bias.any():
        return
    yield Hypothesis("bias missing", CHANGES[0].words, scene.right - bias)
    yield Hypothesis("bias doubled", CHANGES[1].words, scene.right + bias)


def _permuted_bias(
    scene: Scene, layer: Linear, null: np.ndarray, noise: float
) -> Iterator[Hypothesis]:
    """The reference's own bias in another order: the port's, as its result shows it, says in which."""
    width = layer.bias.size
    keep = scene.valid.reshape(-1, width).all(axis=1)
    bias = layer.bias + (scene.wrong - null).reshape(-1, width)[keep].mean(axis=0)
    ordered = np.empty_like(bias)
    ordered[np.argsort(bias)] = np.sort(layer.bias)
    if norm(ordered - layer.bias) > 0:
        value = null - layer.bias + ordered
        yield Hypothesis("bias permuted", CHANGES[-1].words, value, null, noise, fitted=True)


def fit(scene: Scene, output: Activation, given: Activation) -> Linear | None:
    """The linear layer that makes ``output`` of ``given`` in the reference; None when none does, or it is open."""
    unknowns = given.shape[-1] + 1 if given.shape else 0
    same = given.shape[:-1] == output.shape[:-1]
    if not same or not 1 < unknowns <= MOST or np.prod(output.shape[:-1]) < unknowns + SPARE:
        return None
    sides = (given, scene.recorded(given)), (output, scene.made(output))
    x, y = (value.reshape(-1, a.shape[-1]) for a, value in sides)
    finite = np.isfinite(x).all(axis=1) & np.isfinite(y).all(axis=1)
    x, y = np.column_stack([x, np.ones(len(x))])[finite], y[finite]
    if len(x) < unknowns + SPARE:
        return None
    weight = 1 / np.maximum(np.sqrt(np.square(y).mean(axis=1, keepdims=True)), 1e-300)
    u, s, vt = np.linalg.svd(x * weight, full_matrices=False)
    if s[-1] < 1e-7 * s[0]:
        return None
    inverse = (vt.T / s) @ u.T
    found = inverse @ (y * weight)
    left = (x @ found - y) * weight
    sigma = norm(left) / sqrt(max((len(x) - unknowns) * y.shape[1], 1))
    value = np.full((finite.size, y.shape[1]), np.nan)
    value[finite] = x @ found
    if not scene.reproduces(value.reshape(output.shape), output):
        return None
    return Linear(found[:-1], found[-1], (vt.T / s**2) @ vt, sigma)


def _same_input(scene: Scene, given: Activation) -> Iterator[Hypothesis]:
    """Results of other modules that the reference gave the very same input."""
    digest = given.digest
    if digest is None:
        return
    for output in scene.reference.activations:
        if (
            output.key.site != "output"
            or output.shape != scene.target.shape
            or output.place is None
        ):
            continue
        if output.key.path == scene.target.key.path or output.key.step != scene.target.key.step:
            continue
        inputs = scene.inputs_of(output)
        if (
            len(inputs) == 1
            and inputs[0].digest is not None
            and inputs[0].digest.checksum == digest.checksum
        ):
            words = f"using the weights of {output.key.path}"
            yield Hypothesis("weights swapped", words, scene.made(output))


def _others(
    scene: Scene, layer: Linear, x: np.ndarray, rows: np.ndarray, null: np.ndarray
) -> Iterator[Hypothesis]:
    """Kernels and biases of other modules of the same shape."""
    for output in scene.reference.activations:
        fits = (
            output.key.site == "output"
            and output.shape == scene.target.shape
            and output.place is not None
        )
        if (
            not fits
            or output.key.path == scene.target.key.path
            or output.class_name != scene.target.class_name
        ):
            continue
        inputs = scene.inputs_of(output)
        other = (
            fit(scene, output, inputs[0])
            if len(inputs) == 1 and inputs[0].shape == x.shape
            else None
        )
        if other is None:
            continue
        words = f"using the weights of {output.key.path}"
        yield Hypothesis("weights swapped", words, other(x), null, other.noise(rows))
        if other.has_bias and norm(other.bias) > 1e-3 * norm(layer.bias) > 0:
            words = f"adding the bias of {output.key.path}"
            yield Hypothesis(
                "bias swapped", words, null - layer.bias + other.bias, null, layer.noise(rows)
            )


def _precision(
    layer: Linear, x: np.ndarray, null: np.ndarray, noise: float
) -> Iterator[Hypothesis]:
    for dtype in ("bfloat16", "float16", "float8_e4m3fn"):
        value = x @ round_to(layer.kernel, dtype) + layer.bias
        yield Hypothesis(
            "low precision", f"rounding the kernel to {dtype}", value, null, noise, precision=True
        )
    step = np.abs(layer.kernel).max(axis=0, keepdims=True) / 127
    value = x @ (np.rint(layer.kernel / np.maximum(step, 1e-300)) * step) + layer.bias
    yield Hypothesis("low precision", CHANGES[9].words, value, null, noise, precision=True)
    for dtype in ("bfloat16", "TF32"):
        value = round_to(x, dtype) @ round_to(layer.kernel, dtype) + layer.bias
        words = f"rounding inputs and kernel to {dtype}"
        yield Hypothesis("low precision", words, value, null, noise, precision=True)
    for parts in (p for p in PARTS if layer.kernel.shape[0] % p == 0):
        value = np.asarray(_partial(layer, x, parts))
        words = f"adding {parts} partial sums that are rounded to bfloat16"
        yield Hypothesis("low precision", words, value, null, noise, precision=True)


def _partial(layer: Linear, x: np.ndarray, parts: int) -> np.ndarray:
    """The layer with its inputs cut in ``parts`` that are summed apart, each sum rounded to bfloat16."""
    cut = np.split(np.arange(layer.kernel.shape[0]), parts)
    found = sum(round_to(x[..., part] @ layer.kernel[part], "bfloat16") for part in cut)
    return np.asarray(found + layer.bias)
