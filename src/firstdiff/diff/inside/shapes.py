"""Shapes that hold the same rows: with or without axes of length 1, once or repeated for every row of a batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    Shape = tuple[int, ...]


def squeezed(shape: Shape) -> Shape:
    """``shape`` without axes of length 1."""
    return tuple(size for size in shape if size != 1)


def are_repeated(one: Shape, other: Shape) -> bool:
    """Whether tensors of these shapes may be the same rows, in one of them repeated along the first axis."""
    long, short = sorted((one, other), key=lambda shape: np.prod(shape, dtype=np.int64))[::-1]
    return len(long) > 1 and long[0] > 1 and squeezed(long[1:]) == squeezed(short) != ()


def in_one_shape(ours: np.ndarray, theirs: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Both in one shape, that of ``ours`` where they have equally many elements; None when there is none.

    What one side repeats for every row of a batch, and the other has once, is taken once.
    """
    if are_repeated(ours.shape, theirs.shape):
        long = ours if ours.size > theirs.size else theirs
        if not (long == long[:1]).all():
            return None
        ours, theirs = (numbers[:1] if numbers is long else numbers for numbers in (ours, theirs))
    if squeezed(ours.shape) != squeezed(theirs.shape):
        return None
    return ours, theirs.reshape(ours.shape)
