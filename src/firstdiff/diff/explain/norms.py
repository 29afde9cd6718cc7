"""Norms: RMS or layer norm with another epsilon, another scale, another kind, or in low precision.

The scale is not in the trace. It is inferred per channel from the reference's own input and output, and the norm is
believed to be one only when the reference's output is reproduced to rounding.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from firstdiff.diff.explain.hypothesis import Change, Hypothesis
from firstdiff.diff.explain.rounding import round_to
from firstdiff.diff.explain.scene import TINY, Scene

if TYPE_CHECKING:
    from collections.abc import Iterator

    from firstdiff.traces.schema import Activation

EPSILONS = (1e-6, 1e-5, 1e-12, 1e-8, 1e-7, 1e-3, 0.0)
_CONFIGURED = (
    "rms_norm_eps",
    "layer_norm_eps",
    "layer_norm_epsilon",
    "norm_epsilon",
    "norm_eps",
    "eps",
)
_LEAST_ROWS = 8


@dataclass(frozen=True)
class Norm:
    """How a norm computes."""

    eps: float
    """Added to the variance."""
    centred: bool = False
    """Whether the mean is subtracted."""
    scale: str = "as it is"
    """`as it is`, `one plus`, `minus one`, `none`, `squared`, or a key of ``scales``."""
    shifted: bool = True
    """Whether the bias is added."""
    outside: bool = False
    """Whether epsilon is added to the root instead of the variance."""
    unbiased: bool = False
    """Whether the variance is divided by n - 1."""
    dtype: str = ""
    """Rounded to this after every step; empty for exact."""


CHANGES = (
    *(
        Change("norm epsilon", f"adding epsilon {eps:g} to the variance", {"eps": eps})
        for eps in EPSILONS
    ),
    Change("norm epsilon", "adding epsilon to the root instead of the variance", {"outside": True}),
    Change("norm scale convention", "multiplying by one plus the scale", {"scale": "one plus"}),
    Change("norm scale convention", "multiplying by the scale minus one", {"scale": "minus one"}),
    Change("norm scale missing", "leaving out the scale", {"scale": "none"}),
    Change("norm scale twice", "multiplying by the scale twice", {"scale": "squared"}),
    Change("norm bias missing", "leaving out the bias", {"shifted": False}),
    Change("unbiased variance", "dividing the variance by n - 1", {"unbiased": True}),
    Change(
        "low precision", "computing the norm in bfloat16", {"dtype": "bfloat16"}, precision=True
    ),
    Change("low precision", "computing the norm in float16", {"dtype": "float16"}, precision=True),
)
"""Single changes of the right norm."""
KINDS = (
    Change(
        "layer norm for RMS norm", "subtracting the mean, as a layer norm does", {"centred": True}
    ),
    Change(
        "RMS norm for layer norm", "leaving the mean in, as an RMS norm does", {"centred": False}
    ),
    Change(
        "RMS norm for layer norm",
        "leaving the mean in and the bias out, as an RMS norm does",
        {"centred": False, "shifted": False},
    ),
)
"""The other kind of norm."""
SKIPPED = Change("module skipped", "passing the norm's input on unchanged")
OTHERS = Change("weights swapped", "multiplying by the scale of another norm")


def norms(scene: Scene) -> Iterator[Hypothesis]:
    """Hypotheses for the result of a norm."""
    found = _fit(scene, scene.target)
    if found is None:
        return
    right, scale, shift = found
    x = scene.given(scene.inputs()[0])
    null = apply(x, right, scale, shift)
    for change in (*CHANGES, *(KINDS[1:] if right.centred else KINDS[:1])):
        wrong = replace(right, **change.settings)
        if wrong == right or (not wrong.shifted and not np.any(shift)):
            continue
        value, group = apply(x, wrong, scale, shift), scale.size if wrong.dtype else 0
        yield Hypothesis(
            change.cause, change.words, value, null, precision=change.precision, group=group
        )
    yield Hypothesis(SKIPPED.cause, SKIPPED.words, x, null)
    yield from _measured(scene, x, right, scale, shift, null)
    for name, other, offset in _others(scene):
        words = f"multiplying by the scale of {name}"
        yield Hypothesis(OTHERS.cause, words, apply(x, right, other, offset), null)


def apply(x: np.ndarray, spec: Norm, scale: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """The norm of ``x`` [..., n] with ``scale`` and ``shift`` [n]."""
    scales = {"as it is": scale, "one plus": 1 + scale, "minus one": scale - 1, "squared": scale**2}
    weight = scales.get(spec.scale, np.ones_like(scale))
    offset = shift if spec.shifted else np.zeros_like(shift)
    if spec.dtype:
        return _narrow(x, spec, weight, offset)
    return np.asarray(normalise(x, spec) * weight + offset)


def normalise(x: np.ndarray, spec: Norm) -> np.ndarray:
    """``x`` over its root mean square, or its standard deviation."""
    if spec.centred:
        x = np.asarray(x - x.mean(axis=-1, keepdims=True))
    count = x.shape[-1] - int(spec.unbiased)
    variance = np.square(x).sum(axis=-1, keepdims=True) / max(count, 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        if spec.outside:
            return np.asarray(x / (np.sqrt(variance) + spec.eps))
        return np.asarray(x / np.sqrt(variance + spec.eps))


def _narrow(x: np.ndarray, spec: Norm, scale: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """Every step rounded to ``spec.dtype``, the mean accumulated wide."""

    def r(values: np.ndarray) -> np.ndarray:
        return round_to(values, spec.dtype)

    x = r(x)
    if spec.centred:
        x = r(x - r(x.mean(axis=-1, keepdims=True)))
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        variance = r(r(x * x).mean(axis=-1, keepdims=True))
        return r(r(r(scale) * r(x * r(1 / np.sqrt(r(variance + spec.eps))))) + shift)


def _fit(scene: Scene, output: Activation) -> tuple[Norm, np.ndarray, np.ndarray] | None:
    """The norm that the reference computed at ``output`` with its scale and bias; None when it is no norm."""
    given = scene.inputs_of(output) if output.key.site == "output" else []
    if len(given) != 1 or given[0].shape != output.shape or len(output.shape) < 2:
        return None
    sides = scene.recorded(given[0]), scene.made(output)
    x, y = (value.reshape(-1, output.shape[-1]) for value in sides)
    finite = np.isfinite(x).all(axis=1) & np.isfinite(y).all(axis=1)
    x, y = x[finite], y[finite]
    if len(x) < _LEAST_ROWS or output.shape[-1] < 2:
        return None
    for spec in _specs(scene):
        scale, shift = infer(normalise(x, spec), y, shifted=spec.centred)
        value = np.full((len(finite), output.shape[-1]), np.nan)
        value[finite] = normalise(x, spec) * scale + shift
        if scene.reproduces(value.reshape(output.shape), output):
            return spec, scale, shift
    return None


def _specs(scene: Scene) -> Iterator[Norm]:
    """Right norms to try, the configured epsilon first."""
    configured = [
        float(scene.config[name]) for name in _CONFIGURED if scene.config.get(name) is not None
    ]
    for eps in dict.fromkeys((*configured, *EPSILONS)):
        yield Norm(eps)
        yield Norm(eps, centred=True)


def infer(z: np.ndarray, y: np.ndarray, *, shifted: bool) -> tuple[np.ndarray, np.ndarray]:
    """Scale and bias [n] that fit ``y`` = scale * ``z`` + bias best, channel by channel; [rows, n] each.

    Weighted by row, because rounding is relative to the row's size.
    """
    weight = 1 / np.maximum(np.square(y).mean(axis=1, keepdims=True), TINY)
    if not shifted:
        return (weight * z * y).sum(0) / np.maximum((weight * z * z).sum(0), TINY), np.zeros(
            z.shape[1]
        )
    total = weight.sum()
    mean_z, mean_y = (weight * z).sum(0) / total, (weight * y).sum(0) / total
    slope = (weight * (z - mean_z) * (y - mean_y)).sum(0)
    slope /= np.maximum((weight * (z - mean_z) ** 2).sum(0), TINY)
    return slope, mean_y - slope * mean_z


def _measured(
    scene: Scene, x: np.ndarray, right: Norm, scale: np.ndarray, shift: np.ndarray, null: np.ndarray
) -> Iterator[Hypothesis]:
    """The epsilon that the port's own result asks for."""
    z = (null - shift).reshape(-1, scale.size)
    port = (scene.wrong - shift).reshape(-1, scale.size)
    keep = scene.valid.reshape(-1, scale.size).all(axis=1)
    ratio = (port[keep] * z[keep]).sum(1) / np.maximum((z[keep] ** 2).sum(1), TINY)
    centre = x - x.mean(axis=-1, keepdims=True) if right.centred else x
    variance = np.square(centre).mean(axis=-1).reshape(-1)[keep]
    usable = ratio > 0
    if not usable.any():
        return
    eps = np.median(((variance + right.eps)[usable] / ratio[usable] ** 2) - variance[usable])
    eps = float(f"{max(eps, 0.0):.3g}")
    if eps and eps not in EPSILONS:
        value = apply(x, replace(right, eps=eps), scale, shift)
        words = f"adding epsilon {eps:g} to the variance"
        yield Hypothesis("norm epsilon", words, value, null, fitted=True)


def _others(scene: Scene) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Path, scale and bias of every other norm of the same width in the reference."""
    for output in scene.reference.activations:
        same = output.shape == scene.target.shape and output.key.step == scene.target.key.step
        if (
            not same
            or output.key.site != "output"
            or output.key.path == scene.target.key.path
            or output.place is None
        ):
            continue
        if output.class_name != scene.target.class_name:
            continue
        found = _fit(scene, output)
        if found is not None:
            yield output.key.path, found[1], found[2]
