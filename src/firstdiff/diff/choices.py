"""Choices that rounding made: experts picked by scores that agree, another one where two of them tie.

Integers are compared exactly, and a router's choice is no continuous function of its scores. Where each side chose the
largest of its own scores, and those scores agree, the choices agree too, whatever their numbers are.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from firstdiff.diff.judge import Verdict
from firstdiff.diff.leaves import MOST_CHOICES, kind_of
from firstdiff.traces.dtypes import unit_roundoff

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from firstdiff.diff.row import Row
    from firstdiff.traces import Trace

NEAR = 16
"""Rows before a choice among which its scores are looked for."""
FEW = 0.2
"""Share of choices that ties may change: more of them are another mistake."""


def with_choices(rows: Sequence[Row], reference: Trace, port: Trace) -> list[Row]:
    """``rows`` (in the reference's order), choices that differ only because scores tie called agreeing."""
    found = list(rows)
    for number, row in enumerate(rows):
        if _is_choice(row):
            scores = _scores(row, found[:number])
            if any(_right(row, each, reference, port) for each in scores):
                changed = row.verdict.notes[-1] if row.verdict.notes else "some differ"
                note = f"{changed}, where scores tie: each side chose the largest of its own"
                found[number] = replace(row, verdict=Verdict("agrees", notes=(note,)))
    return found


def _is_choice(row: Row) -> bool:
    """Whether ``row`` is of integers [..., k] that differ in some places."""
    if row.pair is None or row.verdict.kind != "diverges" or row.verdict.score is not None:
        return False
    sides = row.pair.reference, row.pair.port
    same = sides[0].shape == sides[1].shape and len(sides[0].shape) > 1
    return (
        same
        and sides[0].shape[-1] <= MOST_CHOICES
        and all(kind_of(side) == "integer" and side.place is not None for side in sides)
    )


def _scores(row: Row, before: Sequence[Row]) -> Iterator[Row]:
    """Agreeing rows before the choice that may be its scores [..., experts], the last one first."""
    shape = row.activation.shape
    for other in reversed(before[-NEAR:]):
        scores = other.activation
        wider = scores.shape[:-1] == shape[:-1] and scores.shape[-1:] > shape[-1:]
        if other.pair is None or not wider or not unit_roundoff(scores.dtype):
            continue
        sides = other.pair.reference, other.pair.port
        same = sides[0].shape == sides[1].shape and scores.part is None
        if same and other.verdict.kind == "agrees" and None not in [s.place for s in sides]:
            yield other


def _right(row: Row, scores: Row, reference: Trace, port: Trace) -> bool:
    """Whether both sides chose the largest of their own scores, and mostly alike."""
    assert row.pair is not None, "a choice has a pair"
    assert scores.pair is not None, "so have its scores"
    ours = np.asarray(reference.values(row.pair.reference))
    theirs = np.asarray(port.values(row.pair.port))
    if (ours != theirs).any(axis=-1).mean() > FEW:
        return False
    known = reference.values(scores.pair.reference), port.values(scores.pair.port)
    return all(_largest(*side) for side in ((ours, known[0]), (theirs, known[1])))


def _largest(chosen: np.ndarray, scores: np.ndarray) -> bool:
    """Whether ``chosen`` [..., k] are places of the k largest of ``scores`` [..., experts], in any order."""
    experts, k = scores.shape[-1], chosen.shape[-1]
    if chosen.min(initial=0) < 0 or chosen.max(initial=0) >= experts:
        return False
    taken = np.sort(np.take_along_axis(scores, chosen.astype(np.int64), axis=-1), axis=-1)
    return bool(np.array_equal(taken, np.sort(scores, axis=-1)[..., experts - k :]))
