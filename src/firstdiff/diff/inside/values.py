"""Whether a value of one side exists on the other: whatever it is called there, and in whatever layout.

Stricter than `value_index` in two ways that matter inside a module, where layouts are made: a tensor that the other
side has in the very same shape must lie in the same order there; and the huge numbers that fill a mask do not drown
the rest of the scores that they were added to.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from firstdiff.diff.masks import is_mask, truth
from firstdiff.diff.measure import Side
from firstdiff.diff.value_index import ValueIndex
from firstdiff.traces.dtypes import unit_roundoff
from firstdiff.traces.padding import valid_elements

if TYPE_CHECKING:
    from collections.abc import Iterable

    from firstdiff.diff.value_index import Nearest
    from firstdiff.traces import Trace
    from firstdiff.traces.schema import Activation

_FILL = 1e8
"""Scores below its negative are hidden by a mask: -1e9, finfo.min, -inf."""


def tolerance_of(dtype: str) -> float:
    """Relative L2 up to which two values are taken for equal, each computed from right inputs in ``dtype``.

    Sums of some thousand rounded numbers lie below it (numerics: 6 unit roundoffs for a product of length 4864), the
    smallest real mistakes above it (a scale off by a percent, a product in bfloat16).
    """
    unit = unit_roundoff(dtype)
    return 8 * unit if unit > 1e-4 else 512 * unit


class Values:
    """The values of one side."""

    def __init__(
        self,
        trace: Trace,
        activations: Iterable[Activation],
        tolerance: float,
        padding: np.ndarray | None = None,
    ) -> None:
        self.trace, self.tolerance, self.padding = trace, tolerance, padding
        self.activations = tuple(activations)
        self.index = ValueIndex(trace, self.activations, padding=padding)
        self._known: dict[object, bool] = {}

    def has(self, trace: Trace, activation: Activation) -> bool:
        """Whether the value of ``activation`` of the other ``trace`` exists here. Plain numbers always do."""
        if not activation.shape or not np.prod(activation.shape) or activation.place is None:
            return True
        digest = activation.digest
        known = (
            activation.dtype,
            activation.shape,
            digest.checksum if digest else activation.order,
        )
        if known not in self._known:
            self._known[known] = self._has(trace, activation)
        return self._known[known]

    def nearest(self, trace: Trace, activation: Activation) -> Nearest | None:
        """What resembles it most here."""
        return self.index.nearest(trace.values(activation), self.tolerance)

    def same(self, trace: Trace, activation: Activation, own: Activation) -> bool:
        """Whether ``own`` of this side holds the numbers of ``activation`` of the other, in the same order."""
        if activation.place is None or own.place is None:
            return False
        ours, theirs = trace.values(activation), self.trace.values(own)
        if _squeezed(ours.shape) != _squeezed(theirs.shape):
            return False
        theirs = theirs.reshape(ours.shape)
        if unit_roundoff(activation.dtype) == 0 or unit_roundoff(own.dtype) == 0:
            return bool(np.array_equal(ours, theirs)) or self._alike_masks(trace, activation, own)
        if is_mask(activation) or _filled(ours) or _filled(theirs):
            return self._alike_masks(trace, activation, own) or self._alike_scores(ours, theirs)
        return self._close(ours, theirs)

    def _has(self, trace: Trace, activation: Activation) -> bool:
        numbers = trace.values(activation)
        if is_mask(activation) or _filled(numbers):
            return any(
                self.same(trace, activation, own)
                for own in self.activations
                if np.prod(own.shape) == numbers.size
            )
        for match in self.index.equals(numbers, self.tolerance).matches:
            shape = _squeezed(activation.shape)
            alike = [own for own in match.activations if _squeezed(own.shape) == shape]
            if not alike or any(self.same(trace, activation, own) for own in alike):
                return True
        return False

    def _alike_masks(self, trace: Trace, activation: Activation, own: Activation) -> bool:
        """Whether both are masks that hide the same, however they spell it."""
        seen = truth(Side(trace.stored(activation), activation.dtype))
        theirs = truth(Side(self.trace.stored(own), own.dtype))
        if seen is None or theirs is None or seen.all() or not seen.any():
            return False
        differ = seen != theirs.reshape(seen.shape)
        valid = valid_elements(seen.shape, self.padding)
        return not bool(np.any(differ if valid is None else differ & valid))

    def _alike_scores(self, ours: np.ndarray, theirs: np.ndarray) -> bool:
        """Whether both hide the same tokens, and hold equal scores elsewhere."""
        hidden, other = ours < -_FILL, theirs < -_FILL
        valid = valid_elements(ours.shape, self.padding)
        differ = hidden != other
        if np.any(differ if valid is None else differ & valid):
            return False
        return self._close(np.where(hidden | other, 0, ours), np.where(hidden | other, 0, theirs))

    def _close(self, ours: np.ndarray, theirs: np.ndarray) -> bool:
        finite = np.isfinite(ours)
        if not np.array_equal(finite, np.isfinite(theirs)):
            return False  # at padded tokens too: they reach the others one layer later
        valid = valid_elements(ours.shape, self.padding)
        if valid is not None:
            use = np.broadcast_to(valid, ours.shape)
            ours, theirs, finite = ours[use], theirs[use], finite[use]
        ours, theirs = ours[finite].astype(np.float64), theirs[finite].astype(np.float64)
        return bool(np.linalg.norm(ours - theirs) <= self.tolerance * np.linalg.norm(ours))


def _squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(size for size in shape if size != 1)


def _filled(numbers: np.ndarray) -> bool:
    """Whether a mask's fill is among the numbers."""
    return numbers.dtype.kind == "f" and bool((numbers < -_FILL).any())
