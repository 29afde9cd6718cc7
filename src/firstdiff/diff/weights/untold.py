"""What digests cannot tell: whether a matrix that has no equal is there after all, times a factor or quantised.

Apart, because an audit without elements must not call wrong what it could not look at.
"""

from __future__ import annotations

from collections import Counter
from math import isclose
from typing import TYPE_CHECKING

from firstdiff.diff.weights.arrangement import solid
from firstdiff.diff.weights.grain import is_integer
from firstdiff.diff.weights.match import SAME

if TYPE_CHECKING:
    from firstdiff.diff.weights.search import Found
    from firstdiff.diff.weights.whole import Unit

WORDS = "; digests do not tell whether it is there times a factor: capture with --weights"


_LEAST_SHARE = 1 / 16
"""A factor is folded into a projection: fewer rows than that are damage."""
_ALIKE = 0.05


class Untold:
    """The parameters of both sides that only elements would decide about."""

    def __init__(self, found: Found) -> None:
        self.found = found
        self._room = self._rooms()
        lost: dict[int, tuple[Unit | None, float]] = {
            n: (u, 1.0) for n, u in found.expected.items()
        }
        lost |= {m.reference: (None, 1.0 - m.share) for m in found.matches if m.share < 1.0}
        self.reference = {n for n, (unit, share) in lost.items() if self._matrix_is(n, unit, share)}
        """Numbers of the reference's parameters of which it is not known what became of them, or of a part."""
        unlaid = {m.reference for m in found.matches if m.relation == SAME and not m.exact}
        owners = {found.reference.parameters[n].owner for n in self.reference | unlaid}
        for number in lost:  # a bias follows its weight
            parameter = found.reference.parameters[number]
            if not _is_matrix(parameter.shape) and parameter.owner in owners:
                self.reference.add(number)

    def idle(self, number: int) -> bool:
        """Whether the port's parameter ``number``, which equals nothing, may be what became of one of those."""
        port = self.found.port
        return not port.prints[number].constant and any(
            not self._readable(one, number)
            or not _is_matrix(self.found.reference.parameters[one].shape)
            for one in self.reference
        )

    def alike(self, number: int, other: int) -> bool:
        """Whether values that were not compared have about the same moments: rounded ones, hardly fresh ones."""
        one, two = self.found.reference.prints[number], self.found.port.prints[other]
        pairs = (one.rms, two.rms), (one.min, two.min), (one.max, two.max)
        return not self._readable(number, other) and all(
            isclose(a, b, rel_tol=_ALIKE) for a, b in pairs
        )

    def _rooms(self) -> dict[int, int]:
        """Elements of each matrix of the port that were not found in the reference."""
        held: Counter[int] = Counter()
        for match in self.found.matches:
            size = self.found.reference.parameters[match.reference].size
            for axis, _ in match.reference_fixed:
                size //= self.found.reference.parameters[match.reference].shape[axis]
            rows = match.rows
            if rows is not None and match.along[0] >= 0:
                size = (
                    len(rows[0])
                    * self.found.reference.parameters[match.reference].shape[match.along[0]]
                )
            held[match.port] += size
        return {
            number: parameter.size - held[number]
            for number, parameter in enumerate(self.found.port.parameters)
            if _is_matrix(parameter.shape)
        }

    def _matrix_is(self, number: int, unit: Unit | None, share: float) -> bool:
        reference, port = self.found.reference, self.found.port
        parameter = reference.parameters[number]
        if not _is_matrix(parameter.shape) or reference.prints[number].constant:
            return False
        if unit is None:
            size = round(share * parameter.size)
            return share >= _LEAST_SHARE and any(
                room >= size and not self._readable(number, n) for n, room in self._room.items()
            )
        if self._readable(number, unit.number) or port.prints[unit.number].constant:
            return False
        other = port.parameters[unit.number]
        compared = not unit.fixed and other.size == parameter.size and not is_integer(other.dtype)
        return not compared  # a factor of a whole matrix shows in its moments

    def _readable(self, number: int, other: int) -> bool:
        return self.found.reference.loadable(number) and self.found.port.loadable(other)


def _is_matrix(shape: tuple[int, ...]) -> bool:
    return len(solid(shape)) > 1
