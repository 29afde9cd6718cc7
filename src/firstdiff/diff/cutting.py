"""Which way a fused tensor holds its members, found from the elements: never from an order alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import chain, islice
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from firstdiff.diff.inference import GUESS, sample, sampled_error
from firstdiff.diff.layout import candidates
from firstdiff.diff.measure import Side
from firstdiff.diff.slicing import Slicing, slicings

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from firstdiff.traces.part import Cut

_MOST_TRIED = 400
"""Ways of slicing that are tried; a right port's is among the first dozen."""


@dataclass(frozen=True)
class Member:
    """One of the tensors that the other side keeps apart."""

    side: Side
    """Its elements."""
    valid: np.ndarray | None = None
    """bool that broadcasts to its shape, True at real tokens; None for all."""


@dataclass(frozen=True)
class Fitted:
    """The slicing that was chosen."""

    slicing: Slicing
    """The one with every member near the floor, the plainest of several; else with most members, or the least error."""
    errors: tuple[float, ...]
    """Relative L2 of each member, over a sample of its elements."""
    others: tuple[str, ...]
    """For each member that does not fit, the place elsewhere in the whole that does; empty where there is none."""

    def fits(self, limit: float) -> bool:
        """Whether every member is within ``limit``, a relative L2."""
        return all(error <= limit for error in self.errors)


def fit(
    whole: Side,
    members: Sequence[Member],
    limit: float,
    usual: Slicing | None = None,
    *,
    ordered: bool = False,
) -> Fitted | None:
    """Choose among all slicings of ``whole``; None when none fits the shapes.

    ``limit`` is a relative L2: a member within it agrees. ``usual`` is tried first, and kept if it fits: the way of
    the other layers. ``ordered`` members are numbered: they lie in their own order, or they are wrong.
    """
    trial = _Trial(whole, members)
    sizes = [int(np.prod(member.side.stored.shape)) for member in members]
    ways: Iterable[Slicing] = islice(
        slicings(whole.stored.shape, sizes, ordered=ordered), _MOST_TRIED
    )
    if usual is not None and _applies(usual, whole, sizes):
        ways = chain([usual], ways)
    best: tuple[Slicing, tuple[float, ...]] | None = None
    for way in ways:
        errors = trial.errors(way)
        if max(errors) <= limit:
            return Fitted(way, errors, ("",) * len(members))
        if best is None or _better(errors, best[1], limit):
            best = way, errors
    if best is None:
        return None
    others = [
        trial.elsewhere(number, limit) if error > limit else ""
        for number, error in enumerate(best[1])
    ]
    return Fitted(*best, tuple(others))


def _applies(way: Slicing, whole: Side, sizes: Sequence[int]) -> bool:
    """Whether ``way``, found for another layer, has the same sizes."""
    size = prod(way.cuts[0].read)
    return size == whole.stored.size and [prod(cut.shape) for cut in way.cuts] == list(sizes)


def _better(errors: Sequence[float], than: Sequence[float], limit: float) -> bool:
    """Whether more members fit, or as many and the error is smaller by a quarter."""
    fits = [sum(error <= limit for error in found) for found in (errors, than)]
    return fits[0] > fits[1] or (fits[0] == fits[1] and _total(than) > GUESS * _total(errors))


def _total(errors: Sequence[float]) -> float:
    """Root of the sum of squares; a member that cannot be laid on its part counts as an error of 10."""
    return float(np.linalg.norm(np.minimum(errors, 10.0)))


@dataclass
class _Trial:
    """Errors of members against parts, each worked out once."""

    whole: Side
    members: Sequence[Member]
    known: dict[tuple[int, int, int, int, int], tuple[float, str]] = field(default_factory=dict)

    def errors(self, way: Slicing) -> tuple[float, ...]:
        return tuple(self._error(number, cut) for number, cut in enumerate(way.cuts))

    def elsewhere(self, number: int, limit: float) -> str:
        """The first place at which member ``number`` fits."""
        found = (
            words
            for (member, *_), (error, words) in self.known.items()
            if member == number and error <= limit
        )
        return next(found, "")

    def _error(self, number: int, cut: Cut) -> float:
        outer = int(np.prod(cut.read[: cut.axis]))
        key = number, outer, cut.read[cut.axis], cut.start, cut.stop
        if key not in self.known:
            self.known[key] = self._measured(self.members[number], cut), cut.words
        return self.known[key][0]

    def _measured(self, member: Member, cut: Cut) -> float:
        own = member.side
        fitting = candidates(own.stored.shape, cut.shape)
        places = sample(own.stored.shape, member.valid)
        if not fitting or not places.size:
            return float("inf")
        part = Side(cut.of(self.whole.stored), self.whole.dtype)
        return min(sampled_error(own, part, layout, places) for layout in fitting)
