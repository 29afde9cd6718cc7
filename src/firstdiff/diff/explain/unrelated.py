"""A linear layer with a kernel that has nothing to do with the reference's: never loaded, or not tied."""

from __future__ import annotations

from math import sqrt

import numpy as np

from firstdiff.diff.explain.embedding import resemblance, untied
from firstdiff.diff.explain.linear import SPARE, fit
from firstdiff.diff.explain.scene import Scene, norm
from firstdiff.diff.judge import WARN

SAME = 1e-3
"""Relative distance of sorted numbers: two draws of n from one distribution have about 1/sqrt(n), 2e-2 for 64 x 64."""
UNRELATED = 0.2
"""Correlation of two kernels below which they have nothing in common: random ones of n elements have 1/sqrt(n)."""


def unrelated(scene: Scene) -> tuple[str, str] | None:
    """Cause and evidence when the port's layer is linear in its input, with an unrelated kernel; else None."""
    if untied(scene):
        return "head not tied", (
            "The reference's logits of the prompt's tokens are products with their embeddings; the port's are not, and "
            f"resemble the reference's in nothing (median cosine {resemblance(scene):.2f})"
        )
    given = scene.inputs()
    layer = fit(scene, scene.target, given[0]) if len(given) == 1 else None
    if layer is None:
        return None
    width = scene.target.shape[-1]
    keep = scene.valid.reshape(-1, width).all(axis=1)
    x, y = (
        scene.given(given[0]).reshape(-1, given[0].shape[-1])[keep],
        scene.wrong.reshape(-1, width)[keep],
    )
    wide = np.column_stack([x, np.ones(len(x))])
    if len(x) < wide.shape[1] + SPARE:
        return None
    kernel, *_ = np.linalg.lstsq(wide, y, rcond=None)
    left = norm(wide @ kernel - y) * sqrt(len(x) / (len(x) - wide.shape[1])) / scene.floor
    if layer.blur > SAME:
        return None
    likeness = _correlation(kernel[:-1], layer.kernel)
    if left > WARN or likeness > UNRELATED:
        return None
    if _rearranged(kernel[:-1], layer.kernel):
        return "kernel rearranged", (
            f"The port's result is a linear function of its input (error left {left:.2g} of the floor), with a kernel "
            "that holds the reference's numbers in other places"
        )
    return "kernel unrelated", (
        f"The port's result is a linear function of its input (error left {left:.2g} of the floor), with a kernel that "
        f"has nothing in common with the reference's (correlation {likeness:.2f})"
    )


def _rearranged(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two kernels hold the same numbers, wherever."""
    return norm(np.sort(one, axis=None) - np.sort(other, axis=None)) < SAME * norm(other)


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    size = norm(one) * norm(other)
    return abs(float((one * other).sum())) / size if size else 0.0
