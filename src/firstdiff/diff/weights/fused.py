"""Parameters that lie in others: fused projections, their slices, batched experts, and such with a few wrong rows.

Every fibre (output row, input column) of one is looked up among the fibres of all others; where they were found says
which part it is and in what order.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from firstdiff.diff.weights.grain import GRAINS, round_to
from firstdiff.diff.weights.match import Match, Side
from firstdiff.diff.weights.naming import parse
from firstdiff.diff.weights.pattern import recognise
from firstdiff.diff.weights.rows import Place, fibres_at, related, rows_or_columns

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

LEAST_SHARE = 0.02
"""Less of a parameter than this, found in another one, is a coincidence."""
MOST_GROUPS = 1024
_SAMPLES = 16
_INSIDE = " inside: "

Group = tuple[int, int]
"""Port parameter and the axis along which its fibres run."""


@dataclass(frozen=True)
class _Fibres:
    """The fibres of some port parameters that have one length, sorted by hash."""

    hashes: np.ndarray
    """Sorted."""
    groups: np.ndarray
    """Number of the group in ``members``."""
    flat: np.ndarray
    """Which fibre of its group, flat over the remaining axes."""
    members: list[Group]
    """The groups."""
    own: list[tuple[np.ndarray, np.ndarray]]
    """For each group its hashes, sorted, and which fibre each is."""


class FibreIndex:
    """Where each fibre of the port lies."""

    def __init__(self, port: Side, which: Iterable[int], grain: str) -> None:
        """Index the parameters ``which`` at ``grain``."""
        self.port, self.grain = port, grain
        self._layers = [parse(p.name).index for p in port.parameters]
        by_length: dict[int, list[tuple[Group, np.ndarray]]] = defaultdict(list)
        for number in which:
            shape = port.parameters[number].shape
            for axis, found in port.prints[number].fibres.get(grain, {}).items():
                if shape[axis] > 1:
                    by_length[shape[axis]].append(((number, axis), found.reshape(-1)))
        self._fibres = {length: _sorted(groups) for length, groups in by_length.items()}

    def find(self, reference: Side, number: int) -> list[Match]:
        """Where parts of a reference parameter lie: along that of its axes along which most is found."""
        shape = reference.parameters[number].shape
        best: list[Match] = []
        rank = (LEAST_SHARE, False, False)
        fibres = reference.prints[number].fibres.get(self.grain, {})
        for axis in sorted(fibres, key=lambda a: -shape[a]):
            if shape[axis] not in self._fibres or shape[axis] == 1:
                continue
            layer = parse(reference.parameters[number].name).index
            found = self._look_up(fibres[axis].reshape(-1), self._fibres[shape[axis]], layer)
            covered = sum(len(ours) for _, ours, _ in found) / fibres[axis].size
            if covered < rank[0]:
                continue
            pieces = [self.piece(reference, number, axis, *place) for place in found]
            # an order that changed across the fibres tells more than one that changed inside them
            inside = not any(_INSIDE in piece.order for piece in pieces)
            # without elements an order inside the fibres is not seen: the axis that shows one is right
            told = any(p.order or self._loadable(reference, p) for p in pieces)
            if (covered, inside, told) > rank:
                rank, best = (covered, inside, told), pieces
            if rank == (1.0, True, True):
                break
        return best

    def _look_up(
        self, wanted: np.ndarray, among: _Fibres, layer: tuple[int, ...]
    ) -> list[tuple[Group, np.ndarray, np.ndarray]]:
        """(group, which of ``wanted``, where in the group): fullest groups first, of equal ones that of the same
        layer; each fibre is found once at most."""
        low = np.searchsorted(among.hashes, wanted)
        hit = low < among.hashes.size
        hit[hit] = among.hashes[low[hit]] == wanted[hit]
        last_ = np.searchsorted(among.hashes, wanted[hit], side="right")
        several = last_ - low[hit]
        votes = np.bincount(among.groups[low[hit]], minlength=len(among.members))
        if several.size and several.max() > 1:  # copies: each of their groups may be meant
            every = np.concatenate([np.arange(a, b) for a, b in zip(low[hit], last_, strict=True)])
            votes = np.bincount(among.groups[every], minlength=len(among.members))
        own = np.array([self._layers[member[0]] != layer for member in among.members])
        rank = _rank(wanted)
        left = hit.copy()
        found = []
        for group in np.lexsort((own, -votes))[:MOST_GROUPS]:
            if not left.any() or not votes[group]:
                break
            hashes, flat = among.own[group]
            ours = np.flatnonzero(left)
            first = np.searchsorted(hashes, wanted[ours])
            last = np.searchsorted(hashes, wanted[ours], side="right")
            there = first + rank[ours]
            ok = there < last
            if ok.any():
                found.append((among.members[group], ours[ok], flat[there[ok]]))
                left[ours[ok]] = False
        return found

    def piece(
        self,
        reference: Side,
        number: int,
        axis: int,
        group: Group,
        ours: np.ndarray,
        theirs: np.ndarray,
    ) -> Match:
        """The match of some fibres along ``axis``, flat ``ours``, with those of ``group``, flat ``theirs``."""
        first, second = reference.parameters[number].shape, self.port.parameters[group[0]].shape
        here = Place(first, axis, ours)
        there = Place(second, group[1], theirs)
        pattern = there.pattern(here)
        match = Match(
            number,
            group[0],
            reference_fixed=here.fixed,
            port_fixed=there.fixed,
            reference_part=here.part,
            port_part=pattern.words if pattern.natural else "",
            order="" if pattern.natural else rows_or_columns(here) + pattern.words,
            order_kind="" if pattern.natural else pattern.kind,
            grain=self.grain,
            rows=(ours, theirs),
            along=(axis, group[1]),
        )
        match = related(match, here, there)
        return self._ordered_along(reference, match, here, there)

    def _loadable(self, reference: Side, match: Match) -> bool:
        return reference.loadable(match.reference) and self.port.loadable(match.port)

    def _ordered_along(self, reference: Side, match: Match, here: Place, there: Place) -> Match:
        """``match`` with what is known of the order inside the fibres."""
        if not self._loadable(reference, match):
            return match
        some = np.unique(np.linspace(0, len(here.flat) - 1, _SAMPLES).astype(np.int64))
        ours = _tuples(reference, match.reference, here, some, match.grain)
        theirs = _tuples(self.port, match.port, there, some, match.grain)
        if np.array_equal(ours, theirs):
            return match
        first, second = _order(ours), _order(theirs)
        if not np.array_equal(ours[first], theirs[second]):
            return match
        places = np.empty(len(first), dtype=np.int64)
        places[first] = second
        pattern = recognise(places, len(places))
        words = (
            f"{'columns' if rows_or_columns(here) == 'rows: ' else 'rows'}{_INSIDE}{pattern.words}"
        )
        order = f"{match.order}; {words}" if match.order else words
        return replace(match, order=order, order_kind=match.order_kind or pattern.kind)


def scattered(
    reference: Side, port: Side, ours: Iterable[int], theirs: Iterable[int]
) -> Iterator[list[Match]]:
    """For each of ``ours`` that lies, whole or in part, in ``theirs``: the pieces found."""
    wanted = list(ours)
    others = list(theirs)
    for grain in GRAINS:
        if not wanted or not any(grain in port.prints[n].fibres for n in others):
            continue
        index = FibreIndex(port, others, grain)
        for number in list(wanted):
            pieces = index.find(reference, number)
            if pieces:
                wanted.remove(number)
                yield pieces


def _tuples(side: Side, number: int, place: Place, some: np.ndarray, grain: str) -> np.ndarray:
    """Some fibres side by side: [n, samples]."""
    return round_to(fibres_at(side, number, place.axis, place.flat[some]), grain).T


def _order(rows: np.ndarray) -> np.ndarray:
    return np.lexsort(rows.T[::-1])


def _rank(values: np.ndarray) -> np.ndarray:
    """How many equal values stand before each."""
    order = np.argsort(values, kind="stable")
    ranked = values[order]
    fresh = np.concatenate([[True], ranked[1:] != ranked[:-1]])
    start = np.maximum.accumulate(np.where(fresh, np.arange(len(values)), 0))
    rank = np.empty(len(values), dtype=np.int64)
    rank[order] = np.arange(len(values)) - start
    return rank


def _sorted(groups: list[tuple[Group, np.ndarray]]) -> _Fibres:
    hashes = np.concatenate([h for _, h in groups])
    numbers_ = np.concatenate([np.full(h.size, i, np.int32) for i, (_, h) in enumerate(groups)])
    flat = np.concatenate([np.arange(h.size, dtype=np.int64) for _, h in groups])
    order = np.argsort(hashes, kind="stable")
    own = []
    for _, h in groups:
        mine = np.argsort(h, kind="stable")
        own.append((h[mine], mine))
    return _Fibres(hashes[order], numbers_[order], flat[order], [g for g, _ in groups], own)
