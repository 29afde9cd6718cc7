"""Parameters that lie in others: fused projections, their slices, batched experts, and such with a few wrong rows.

Every fibre (output row, input column) of one is looked up among the fibres of all others; where they were found says
which part it is and in what order.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from math import prod

import numpy as np

from firstdiff.diff.weights.grain import GRAINS, numbers, round_to
from firstdiff.diff.weights.match import Fixed, Match, Side, Turn, selector
from firstdiff.diff.weights.naming import parse
from firstdiff.diff.weights.pattern import Pattern, recognise

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
        rank = (LEAST_SHARE, False)
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
            if (covered, inside) > rank:
                rank, best = (covered, inside), pieces
            if rank == (1.0, True):
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
        self, reference: Side, number: int, axis: int, group: Group, ours: np.ndarray, theirs: np.ndarray
    ) -> Match:
        first, second = reference.parameters[number].shape, self.port.parameters[group[0]].shape
        here = _Place(first, axis, ours)
        there = _Place(second, group[1], theirs)
        pattern = there.pattern(here)
        match = Match(
            number,
            group[0],
            reference_fixed=here.fixed,
            port_fixed=there.fixed,
            reference_part=here.part,
            port_part=pattern.words if pattern.natural else "",
            order="" if pattern.natural else _rows_or_columns(here) + pattern.words,
            order_kind="" if pattern.natural else pattern.kind,
            grain=self.grain,
            rows=(ours, theirs),
            along=(axis, group[1]),
        )
        match = _related(match, here, there)
        return self._ordered_along(reference, match, here, there)

    def _ordered_along(self, reference: Side, match: Match, here: _Place, there: _Place) -> Match:
        """``match`` with what is known of the order inside the fibres."""
        if not (reference.loadable(match.reference) and self.port.loadable(match.port)):
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
        words = f"{'columns' if _rows_or_columns(here) == 'rows: ' else 'rows'}{_INSIDE}{pattern.words}"
        order = f"{match.order}; {words}" if match.order else words
        return replace(match, order=order, order_kind=match.order_kind or pattern.kind)


def scattered(reference: Side, port: Side, ours: Iterable[int], theirs: Iterable[int]) -> Iterator[list[Match]]:
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


class _Place:
    """Where fibres lie in one parameter: which slice of it, and which rows of that slice."""

    def __init__(self, shape: tuple[int, ...], axis: int, flat: np.ndarray) -> None:
        self.shape, self.axis, self.flat = shape, axis, flat
        self.axes = [a for a in range(len(shape)) if a != axis]
        self.rest = tuple(shape[a] for a in self.axes)
        self.coordinates = np.unravel_index(flat, self.rest or (1,))
        single = [
            place
            for place, n in enumerate(self.rest)
            if n > 1 and len(self.rest) > 1 and (self.coordinates[place] == self.coordinates[place][0]).all()
        ]
        if len(single) == len(self.rest):
            single = single[:-1]
        self.fixed: Fixed = tuple((self.axes[p], int(self.coordinates[p][0])) for p in single)
        kept = [place for place in range(len(self.rest)) if place not in single]
        self.box = tuple(self.rest[p] for p in kept)
        self.extent = prod(self.box)
        self.local = np.ravel_multi_index(tuple(self.coordinates[p] for p in kept), self.box or (1,))

    @property
    def part(self) -> str:
        """Which part of the slice, in words; empty for all of it, or when the part is irregular."""
        pattern = recognise(np.sort(self.local), self.extent)
        return pattern.words if pattern.kind in ("slice", "blocks") else ""

    def pattern(self, other: _Place) -> Pattern:
        """How the rows of ``other``, in their order, lie here. A few that were not found do not hide it."""
        whole = len(other.local) == other.extent
        shape = [n for n in other.box if n > 1]
        if whole or other.part:
            return recognise(self.local, self.extent, shape if whole else ())
        places = np.full(other.extent, -1, dtype=np.int64)
        places[other.local] = self.local
        lost = np.flatnonzero(places < 0)
        start = self._start(other.extent)
        free = np.setdiff1d(np.arange(start, start + other.extent), self.local)
        if len(free) != len(lost):
            return recognise(self.local, self.extent)
        places[lost] = free
        return recognise(places, self.extent, shape)

    def _start(self, extent: int) -> int:
        """Where the block of ``extent`` rows starts that holds all rows found here."""
        return int(self.local.min()) // extent * extent if self.extent % extent == 0 else 0


def _related(match: Match, here: _Place, there: _Place) -> Match:
    """``match`` with the relation that the axes have."""
    if len(here.box) + 1 != 2 or len(here.shape) - len(here.fixed) != 2:
        return replace(match, relation="equal" if here.shape == there.shape else "rearranged")
    ours_last = here.axis == max(here.axis, *(a for a in here.axes if a not in dict(here.fixed)))
    free = [a for a in there.axes if a not in dict(there.fixed) and there.shape[a] > 1]
    turn: Turn = ""
    if free and (there.axis > max(free) or there.axis < min(free)):
        turn = "kept" if (there.axis > max(free)) == ours_last else "turned"
    words = {"kept": "equal", "turned": "transposed", "": "rearranged"}[turn]
    square = here.shape[here.axis] in (there.extent, len(here.flat)) and turn != ""
    other = {"kept": ("transposed",), "turned": ("equal",), "": ()}[turn]
    return replace(match, relation=words, turn=turn, forced=not square, others=other if square else ())


def _rows_or_columns(place: _Place) -> str:
    return "rows: " if place.axis == len(place.shape) - 1 else "columns: "


def _tuples(side: Side, number: int, place: _Place, some: np.ndarray, grain: str) -> np.ndarray:
    """Some fibres side by side: [n, samples]."""
    return round_to(fibres_at(side, number, place.axis, place.flat[some]), grain).T


def fibres_at(side: Side, number: int, axis: int, flat: np.ndarray) -> np.ndarray:
    """The numbers of some fibres along ``axis``: [samples, n]."""
    shape = side.parameters[number].shape
    rest = tuple(n for a, n in enumerate(shape) if a != axis)
    coordinates = iter(np.unravel_index(flat, rest or (1,)))
    index = [np.arange(shape[axis])[None, :] if a == axis else next(coordinates)[:, None] for a in range(len(shape))]
    stored = side.stored(number)[tuple(index)]
    return numbers(np.ascontiguousarray(stored), side.parameters[number].dtype)


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


def values_at(side: Side, number: int, fixed: Fixed, grain: str) -> np.ndarray:
    """The numbers of a slice at ``grain``."""
    parameter = side.parameters[number]
    stored = side.stored(number)[selector(parameter.shape, fixed)]
    return round_to(numbers(np.ascontiguousarray(stored), parameter.dtype), grain)
