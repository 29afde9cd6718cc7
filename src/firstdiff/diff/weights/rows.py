"""Where fibres lie in one parameter: the slice they share, which rows of it they are, and in what order."""

from __future__ import annotations

from dataclasses import replace
from math import prod

import numpy as np

from firstdiff.diff.weights.grain import numbers, round_to
from firstdiff.diff.weights.match import Fixed, Match, Side, Turn, selector
from firstdiff.diff.weights.pattern import Pattern, recognise


class Place:
    """Where fibres lie in one parameter: which slice of it, and which rows of that slice."""

    def __init__(self, shape: tuple[int, ...], axis: int, flat: np.ndarray) -> None:
        self.shape, self.axis, self.flat = shape, axis, flat
        self.axes = [a for a in range(len(shape)) if a != axis]
        self.rest = tuple(shape[a] for a in self.axes)
        self.coordinates = np.unravel_index(flat, self.rest or (1,))
        single = [
            place
            for place, n in enumerate(self.rest)
            if n > 1
            and len(self.rest) > 1
            and (self.coordinates[place] == self.coordinates[place][0]).all()
        ]
        if len(single) == len(self.rest):
            single = single[:-1]
        self.fixed: Fixed = tuple((self.axes[p], int(self.coordinates[p][0])) for p in single)
        kept = [place for place in range(len(self.rest)) if place not in single]
        self.box = tuple(self.rest[p] for p in kept)
        self.extent = prod(self.box)
        self.local = np.ravel_multi_index(
            tuple(self.coordinates[p] for p in kept), self.box or (1,)
        )

    @property
    def part(self) -> str:
        """Which part of the slice, in words; empty for all of it, or when the part is irregular."""
        pattern = recognise(np.sort(self.local), self.extent)
        return pattern.words if pattern.kind in ("slice", "blocks") else ""

    def pattern(self, other: Place) -> Pattern:
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


def related(match: Match, here: Place, there: Place) -> Match:
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
    return replace(
        match, relation=words, turn=turn, forced=not square, others=other if square else ()
    )


def rows_or_columns(place: Place) -> str:
    """What the fibres are in a matrix."""
    return "rows: " if place.axis == len(place.shape) - 1 else "columns: "


def fibres_at(side: Side, number: int, axis: int, flat: np.ndarray) -> np.ndarray:
    """The numbers of some fibres along ``axis``: [samples, n]."""
    shape = side.parameters[number].shape
    rest = tuple(n for a, n in enumerate(shape) if a != axis)
    coordinates = iter(np.unravel_index(flat, rest or (1,)))
    index = [
        np.arange(shape[axis])[None, :] if a == axis else next(coordinates)[:, None]
        for a in range(len(shape))
    ]
    stored = side.stored(number)[tuple(index)]
    return numbers(np.ascontiguousarray(stored), side.parameters[number].dtype)


def values_at(side: Side, number: int, fixed: Fixed, grain: str) -> np.ndarray:
    """The numbers of a slice at ``grain``."""
    parameter = side.parameters[number]
    stored = side.stored(number)[selector(parameter.shape, fixed)]
    return round_to(numbers(np.ascontiguousarray(stored), parameter.dtype), grain)
