"""Norm weights that one side stores as w and the other as w - 1: vectors that are equal but for one.

Apart from `approximate`, which needs to know the place: here any unmatched vector of that length will do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from firstdiff.diff.weights.arrangement import solid
from firstdiff.diff.weights.match import Match, Side
from firstdiff.diff.weights.whole import Unit

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_TOLERANCE = {"float32": 2.0**-22, "float16": 2.0**-10, "bfloat16": 2.0**-7}
_MOST_ELEMENTS = 1 << 20


def shifted(
    reference: Side, port: Side, ours: Sequence[int], theirs: Sequence[int]
) -> Iterator[Match]:
    """For each of ``ours`` that is a vector: the unit among ``theirs`` that equals it plus or minus one."""
    rows = [unit for number in theirs for unit in _vectors(port, number)]
    values = [_values(port, unit) for unit in rows]
    used: set[int] = set()
    for number in ours:
        if not _is_vector(reference, number):
            continue
        here = _values(reference, Unit(number))
        for place, there in enumerate(values):
            if place in used or there.size != here.size:
                continue
            offset = _offset(here, there, _tolerance(reference, port, number, rows[place].number))
            if offset:
                used.add(place)
                yield Match(number, rows[place].number, port_fixed=rows[place].fixed, offset=offset)
                break


def _vectors(side: Side, number: int) -> Iterator[Unit]:
    """The parameter, or the rows of a stack of vectors."""
    shape = side.parameters[number].shape
    if not side.loadable(number) or side.parameters[number].size > _MOST_ELEMENTS:
        return
    if len(solid(shape)) == 1:
        yield Unit(number)
    elif len(shape) == 2:
        for axis, n in enumerate(shape):
            yield from (Unit(number, ((axis, index),)) for index in range(min(n, 512)))


def _is_vector(side: Side, number: int) -> bool:
    return len(solid(side.parameters[number].shape)) == 1 and side.loadable(number)


def _values(side: Side, unit: Unit) -> np.ndarray:
    return side.numbers(unit.number, unit.fixed).reshape(-1).astype(np.float64)


def _offset(here: np.ndarray, there: np.ndarray, tolerance: float) -> float:
    """1 or -1 where that is what ``there`` has more than ``here``, else 0."""
    offset = float(np.round(there[0] - here[0]))
    if abs(offset) != 1 or here.size < 2 or (here == here[0]).all():
        return 0.0
    size = np.maximum(np.abs(here), np.abs(there)) + 1
    return offset if (np.abs(there - here - offset) <= tolerance * size).all() else 0.0


def _tolerance(reference: Side, port: Side, ours: int, theirs: int) -> float:
    grains = reference.prints[ours].grain, port.prints[theirs].grain
    return max(_TOLERANCE.get(grain, _TOLERANCE["float32"]) for grain in grains)
