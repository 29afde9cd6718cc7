"""Whether a value of one side exists on the other: whatever it is called there, and in whatever layout.

Stricter than `value_index` in two ways that matter inside a module, where layouts are made: a tensor that the other
side has in the very same shape must lie in the same order there; and the huge numbers that fill a mask do not drown
the rest of the scores that they were added to.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from firstdiff.diff.inside.shapes import are_repeated, in_one_shape, squeezed
from firstdiff.diff.masks import is_mask, truth
from firstdiff.diff.measure import Side
from firstdiff.diff.value_index import ValueIndex
from firstdiff.traces.dtypes import unit_roundoff
from firstdiff.traces.padding import valid_elements

if TYPE_CHECKING:
    from collections.abc import Iterable

    from firstdiff.diff.inside.allowance import Allowance
    from firstdiff.diff.inside.answer import SideName
    from firstdiff.diff.value_index import Match, Nearest
    from firstdiff.traces import Trace
    from firstdiff.traces.schema import Activation

_FILL = 1e8
"""Scores below its negative are hidden by a mask: -1e9, finfo.min, -inf."""


class Values:
    """The values of one side."""

    def __init__(
        self,
        side: SideName,
        trace: Trace,
        activations: Iterable[Activation],
        allowance: Allowance,
    ) -> None:
        self.side, self.trace, self.allowance = side, trace, allowance
        self.activations = tuple(activations)
        self.index = ValueIndex(trace, self.activations, padding=allowance.padding)
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

    def before(self, order: int) -> Values:
        """Those made before this place in the execution order."""
        found = [a for a in self.activations if a.order < order]
        return Values(self.side, self.trace, found, self.allowance)

    def nearest(self, trace: Trace, activation: Activation) -> Nearest | None:
        """What resembles it most here."""
        return self.index.nearest(trace.values(activation), self.limit(activation))

    def limit(self, activation: Activation) -> float:
        """Relative L2 within which something here may equal ``activation`` of the other side."""
        if self.side == "port":
            return self.allowance.limit(activation)
        alike = [own for value in self.index.values_like(activation) for own in value.activations]
        return max(map(self.allowance.limit, alike), default=self.allowance.fixed)

    def same(self, trace: Trace, activation: Activation, own: Activation) -> bool:
        """Whether ``own`` of this side holds the numbers of ``activation`` of the other, in the same order."""
        if activation.place is None or own.place is None:
            return False
        pair = (self.trace, own), (trace, activation)
        (first, ours), (second, theirs) = pair if self.side == "reference" else pair[::-1]
        numbers = in_one_shape(first.values(ours), second.values(theirs))
        if numbers is None:
            return False
        whole = ours.shape == numbers[0].shape
        if unit_roundoff(ours.dtype) == 0 or unit_roundoff(theirs.dtype) == 0:
            exact = bool(np.array_equal(*numbers))
            return exact or (whole and self._alike_masks(trace, activation, own))
        if is_mask(ours) or any(map(_filled, numbers)):
            masks = whole and self._alike_masks(trace, activation, own)
            return masks or self._alike_scores(ours, *numbers)
        return self.allowance.close(ours, *numbers)

    def _has(self, trace: Trace, activation: Activation) -> bool:
        numbers = trace.values(activation)
        if is_mask(activation) or _filled(numbers):
            return any(
                self.same(trace, activation, own)
                for own in self.activations
                if np.prod(own.shape) == numbers.size
            )
        found = self.index.equals(numbers, self.limit(activation)).matches
        return any(self._is(match, trace, activation) for match in found) or any(
            self.same(trace, activation, own)
            for own in self.activations
            if are_repeated(own.shape, activation.shape)
        )

    def _is(self, match: Match, trace: Trace, activation: Activation) -> bool:
        """Whether ``match`` is ``activation``: in order where the shapes are alike, else near enough."""
        shape = squeezed(activation.shape)
        alike = [own for own in match.activations if squeezed(own.shape) == shape]
        if alike:
            return any(self.same(trace, activation, own) for own in alike)
        ours = match.activations if self.side == "reference" else (activation,)
        return match.laid.error <= max(map(self.allowance.limit, ours))

    def _alike_masks(self, trace: Trace, activation: Activation, own: Activation) -> bool:
        """Whether both are masks that hide the same, however they spell it."""
        seen = truth(Side(trace.stored(activation), activation.dtype))
        theirs = truth(Side(self.trace.stored(own), own.dtype))
        if seen is None or theirs is None or seen.all() or not seen.any():
            return False
        differ = seen != theirs.reshape(seen.shape)
        valid = valid_elements(seen.shape, self.allowance.padding)
        return not bool(np.any(differ if valid is None else differ & valid))

    def _alike_scores(self, reference: Activation, ours: np.ndarray, theirs: np.ndarray) -> bool:
        """Whether both hide the same tokens, and hold equal scores elsewhere."""
        hidden, other = ours < -_FILL, theirs < -_FILL
        valid = valid_elements(ours.shape, self.allowance.padding)
        differ = hidden != other
        if np.any(differ if valid is None else differ & valid):
            return False
        left_out = hidden | other
        ours, theirs = (np.where(left_out, -np.inf, numbers) for numbers in (ours, theirs))
        return self.allowance.close(reference, ours, theirs)


def _filled(numbers: np.ndarray) -> bool:
    """Whether a mask's fill is among the numbers."""
    return numbers.dtype.kind == "f" and bool((numbers < -_FILL).any())
