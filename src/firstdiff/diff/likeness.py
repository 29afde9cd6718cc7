"""Where two tensors agree although they differ as a whole: by position, head, batch row or another axis."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from firstdiff.traces.padding import token_axes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from firstdiff.diff.layout import Layout

_MOST_RANGES = 3


@dataclass(frozen=True)
class Likeness:
    """The slices along one axis in which two tensors agree."""

    words: str
    """`equal at position 0 only`, `equal in heads 0-2 of 4`; empty when no slice along any axis agrees."""
    axis: str = ""
    """What the axis is: `position`, `head`, `batch row`, `channel`, `index of axis 1`."""
    agreeing: tuple[int, ...] = ()
    """The slices that agree."""
    length: int = 0
    """Slices along the axis."""


def where_equal(
    values: np.ndarray,
    other: np.ndarray,
    layout: Layout,
    tolerance: float,
    padding: np.ndarray | None = None,
    grid: tuple[int, int] | None = None,
) -> Likeness:
    """The axis along which some slices agree and others do not: that with the largest agreeing share.

    A slice agrees when its relative L2 ||other - values|| / ||values|| is at most ``tolerance``. ``grid`` is (batch,
    tokens); with ``padding`` (bool[batch, tokens], True at real tokens) padded tokens do not count and positions are
    counted from the first real token of each row.
    """
    ours, theirs = (
        view.astype(np.complex128 if view.dtype.kind == "c" else np.float64)
        for view in (layout.reference(values), layout.port(other))
    )
    with np.errstate(invalid="ignore", over="ignore"):
        error, norm = np.abs(theirs - ours) ** 2, np.abs(ours) ** 2
    error = np.where(np.isfinite(error), error, np.inf)
    norm = np.where(np.isfinite(norm), norm, 0.0)
    tokens = token_axes(ours.shape, *grid) if grid is not None else None
    if tokens is not None and padding is not None:
        error, norm = (_from_first_token(part, tokens, padding) for part in (error, norm))
    found = [
        _along(error, norm, axis, _name(axis, ours.ndim, tokens), tolerance)
        for axis in range(ours.ndim)
        if ours.shape[axis] > 1
    ]
    partly = [one for one in found if one.agreeing]
    return max(partly, key=lambda one: len(one.agreeing) / one.length, default=Likeness(""))


def _from_first_token(part: np.ndarray, axes: tuple[int, int], padding: np.ndarray) -> np.ndarray:
    """``part`` with 0 at padded tokens, and each batch row shifted so that its first real token comes first."""
    moved = np.moveaxis(part, axes, (0, 1))
    shifted = np.zeros_like(moved)
    for row, mask in enumerate(padding):
        real = moved[row][mask]
        shifted[row, : len(real)] = real
    return np.moveaxis(shifted, (0, 1), axes)


def _name(axis: int, dimensions: int, tokens: tuple[int, int] | None) -> str:
    if tokens is not None and axis in tokens:
        return "position" if axis == tokens[1] else "batch row"
    if tokens is not None and axis == dimensions - 1:
        return "channel"
    return "head" if tokens is not None and dimensions == 4 else f"index of axis {axis}"


def _along(error: np.ndarray, norm: np.ndarray, axis: int, name: str, tolerance: float) -> Likeness:
    others = tuple(i for i in range(error.ndim) if i != axis)
    errors, norms = error.sum(axis=others), norm.sum(axis=others)
    counted = (norms > 0) | (errors > 0)
    agree = (np.sqrt(errors) <= tolerance * np.sqrt(norms)) & counted
    numbers = tuple(np.flatnonzero(agree).tolist())
    length = int(counted.sum())
    if not numbers or len(numbers) == length:
        return Likeness("", name, (), length)
    return Likeness(_words(name, numbers, length), name, numbers, length)


def _words(name: str, numbers: Sequence[int], length: int) -> str:
    at = "at" if name == "position" else "in"
    if len(numbers) == 1:
        return f"equal {at} {name} {numbers[0]} only"
    missing = length - len(numbers)
    if missing == 1 and max(numbers) < length:
        lone = next(n for n in range(length) if n not in numbers)
        return f"equal except {at} {name} {lone}"
    shown = _ranges(numbers)
    if len(shown) > _MOST_RANGES:
        return f"equal {at} {len(numbers)} of {length} {_plural(name)}"
    return f"equal {at} {_plural(name)} {', '.join(shown)} of {length}"


def _plural(name: str) -> str:
    return name.replace("index", "indices") if name.startswith("index") else f"{name}s"


def _ranges(numbers: Sequence[int]) -> list[str]:
    made: list[list[int]] = []
    for number in numbers:
        if made and number == made[-1][1] + 1:
            made[-1][1] = number
        else:
            made.append([number, number])
    return [f"{a}" if a == b else f"{a}-{b}" for a, b in made]
