"""Every reference parameter sought in the port, cheapest evidence first. What was found; judging comes after."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from firstdiff.diff.weights.approximate import compare
from firstdiff.diff.weights.arrangement import solid
from firstdiff.diff.weights.coverage import covered, incomplete, lost
from firstdiff.diff.weights.expectation import Expectation
from firstdiff.diff.weights.fingerprint import fingerprint_all
from firstdiff.diff.weights.fused import scattered
from firstdiff.diff.weights.match import Match, Side
from firstdiff.diff.weights.scaled import scaled
from firstdiff.diff.weights.shifted import shifted
from firstdiff.diff.weights.vectors import as_elsewhere, contained, followed
from firstdiff.diff.weights.whole import Unit, arrange, same_values

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from firstdiff.traces.parameters import Parameter


@dataclass(frozen=True)
class Found:
    """All that the search found."""

    reference: Side
    """The reference's parameters."""
    port: Side
    """The port's."""
    matches: tuple[Match, ...]
    """In no order; a fused reference has several."""
    copies: tuple[tuple[int, Unit], ...]
    """(reference, port unit): further places of the port that hold the values of a matched parameter."""
    expectation: Expectation
    """Where things ought to be."""
    expected: dict[int, Unit | None]
    """For each reference parameter without a match, where it ought to be."""


def search(reference: Sequence[Parameter] | Side, port: Sequence[Parameter] | Side) -> Found:
    """Find ``reference`` in ``port``. Reads every parameter once, and those that found no equal again.

    A side of a trace, whose values are not kept, comes with its fingerprints.
    """
    return search_sides(*_sides(reference, port))


def _sides(
    reference: Sequence[Parameter] | Side, port: Sequence[Parameter] | Side
) -> tuple[Side, Side]:
    given = [side for side in (reference, port) if isinstance(side, Side)]
    grains = {p.grain for side in given for p in side.prints if not p.constant}
    first, second = (() if isinstance(side, Side) else tuple(side) for side in (reference, port))
    prints = fingerprint_all(first, second, grains)
    return (
        reference if isinstance(reference, Side) else Side(first, tuple(prints[0])),
        port if isinstance(port, Side) else Side(second, tuple(prints[1])),
    )


def search_sides(ours: Side, theirs: Side) -> Found:
    """`search` on parameters whose fingerprints are known."""
    expectation = Expectation(ours, theirs)
    matches, copies = _assign(ours, theirs, expectation)
    weak = [
        m
        for m in matches
        if m.order_kind == "permuted" and len(solid(ours.parameters[m.reference].shape)) == 1
    ]
    matches = [m for m in matches if m not in weak]
    matches += _parts(ours, theirs, matches, expectation)
    found = {m.reference for m in matches}
    matches = covered(ours, [*matches, *(m for m in weak if m.reference not in found)])
    expectation.learn(matches)
    matches += _by_place(ours, theirs, expectation, matches, {unit for _, unit in copies})
    expected = {
        number: expectation.expected(number, _taken(matches))
        for number in _left(len(ours), (m.reference for m in matches))
    }
    return Found(ours, theirs, tuple(matches), tuple(copies), expectation, expected)


def _left(count: int, found: Iterable[int]) -> list[int]:
    gone = set(found)
    return [number for number in range(count) if number not in gone]


def _taken(matches: Sequence[Match]) -> set[Unit]:
    return {Unit(m.port, m.port_fixed) for m in matches}


def _assign(
    ours: Side, theirs: Side, expectation: Expectation
) -> tuple[list[Match], list[tuple[int, Unit]]]:
    """Units with equal values, paired one to one; where several are equal, names choose."""
    equal = same_values(ours, theirs)
    whole = {unit.number for unit in equal if not unit.fixed}
    equal = {
        unit: found for unit, found in equal.items() if not unit.fixed or unit.number not in whole
    }
    like = lru_cache(maxsize=None)(expectation.likeness)
    pairs = [(unit, other) for unit, found in equal.items() for other in found]
    ambiguous = {o for unit, found in equal.items() if len(found) > 1 for o in found}
    counts: dict[Unit, int] = {}
    for _, other in pairs:
        counts[other] = counts.get(other, 0) + 1
    score = {
        pair: like(*pair) if pair[1] in ambiguous or counts[pair[1]] > 1 else 0.0 for pair in pairs
    }
    matches: list[Match] = []
    copies: list[tuple[int, Unit]] = []
    used: set[Unit] = set()
    done: set[Unit] = set()
    for unit, other in sorted(pairs, key=lambda pair: -score[pair]):
        if unit in done or other in used:
            continue
        match = arrange(ours, theirs, unit, other)
        if match is not None:
            matches.append(match)
            done.add(unit)
            used.add(other)
    for unit, other in pairs:
        if unit in done and other not in used:
            copies.append((unit.number, other))
        elif unit not in done and other in used:
            match = arrange(
                ours, theirs, unit, other
            )  # tied in the port, two parameters in the reference
            if match is not None:
                matches.append(match)
                done.add(unit)
    return matches, copies


def _parts(
    ours: Side, theirs: Side, known: Sequence[Match], expectation: Expectation
) -> list[Match]:
    """Fused and damaged parameters, then vectors, then scaled ones."""
    found: list[Match] = []
    templates = ([n.template for n in expectation.ours], [n.template for n in expectation.theirs])

    def left() -> tuple[list[int], list[int]]:
        everything = [*known, *found]
        return (
            incomplete(ours, everything),
            _left(len(theirs), (m.port for m in everything if m.rows is None and not m.port_fixed)),
        )

    for pieces in scattered(ours, theirs, *left()):
        found += pieces
    found += _scaled(ours, theirs, left()[0], found, {m.port for m in known})
    found = covered(ours, [*known, *found])[len(known) :]
    for complete in (True, False):  # a whole weight first: of a damaged one some rows are not known
        here, there = left()
        here = [n for n in here if len(solid(ours.parameters[n].shape)) <= 1]
        leaders = [m for m in found if (m.share == 1.0) == complete]
        found += covered(ours, _first_each(followed(ours, theirs, here, there, leaders)))
        taught = [m for m in found if m.along[0] < 0]
        partly = {m.reference for m in taught if m.share < 1.0}
        here = [n for n in left()[0] if len(solid(ours.parameters[n].shape)) <= 1]
        more = as_elsewhere(ours, theirs, [*here, *partly], taught, templates)
        found = covered(ours, [*known, *found, *(m for m in more if not _overlaps(m, taught))])[
            len(known) :
        ]
    here, there = left()
    found += _first_each(contained(ours, theirs, here, there))
    here, there = left()
    taken = {m.port for m in [*known, *found]}
    found += shifted(ours, theirs, here, [n for n in there if n not in taken])
    return found


def _scaled(
    ours: Side, theirs: Side, left: Sequence[int], found: Sequence[Match], whole: set[int]
) -> list[Match]:
    """Matches with a factor: of parameters that were not found, and of what is missing from partly found ones."""
    pieces: dict[int, list[Match]] = {}
    for match in found:
        pieces.setdefault(match.reference, []).append(match)
    wanted: dict[int, tuple[int, np.ndarray] | None] = dict.fromkeys(left)
    for number, known in pieces.items():
        part = lost(ours, number, known)
        if part[1].size and part[0] >= 0:
            wanted[number] = part
    return (
        list(scaled(ours, theirs, wanted, [n for n in range(len(theirs)) if n not in whole]))
        if wanted
        else []
    )


def _overlaps(match: Match, known: Iterable[Match]) -> bool:
    """Whether a piece holds elements of the reference that one of ``known`` holds already."""
    return match.rows is not None and any(
        other.rows is not None
        and other.reference == match.reference
        and np.isin(match.rows[0], other.rows[0]).any()
        for other in known
    )


def _first_each(found: Iterable[Match]) -> list[Match]:
    """Vector matches: a longer reference vector may have several, a place of the port has one."""
    kept: dict[tuple[int, int, str, str], Match] = {}
    whole: set[int] = set()
    for match in found:
        if match.reference in whole:
            continue
        kept.setdefault((match.reference, match.port, match.reference_part, match.port_part), match)
        if not match.reference_part:
            whole.add(match.reference)
    return list(kept.values())


def _by_place(
    ours: Side, theirs: Side, expectation: Expectation, known: Sequence[Match], copies: set[Unit]
) -> list[Match]:
    """Parameters that are constant, or merely related to what stands where they ought to be."""
    found: list[Match] = []
    taken = _taken(known)
    for number in _left(len(ours), (m.reference for m in known)):
        unit = expectation.expected(number, taken)
        if unit is None or unit in taken or unit in copies:
            continue
        match = _constant(ours, theirs, number, unit) or compare(ours, theirs, Unit(number), unit)
        if match is not None:
            found.append(match)
            taken.add(unit)
    return found


def _constant(ours: Side, theirs: Side, number: int, unit: Unit) -> Match | None:
    """Both all one value: equal, though that value says nothing about which is which."""
    known, other = ours.prints[number], theirs.prints[unit.number]
    if not known.constant:
        return None
    if not other.constant:
        if not unit.fixed or not theirs.loadable(unit.number):
            return None
        values = theirs.numbers(unit.number, unit.fixed)
        if not values.size or (values != known.min).any():
            return None
    elif other.min != known.min:
        return None
    return replace(
        Match(number, unit.number, port_fixed=unit.fixed, certain=False),
        grain=theirs.prints[unit.number].grain,
        detail=f"all {ours.prints[number].min:g}",
    )
