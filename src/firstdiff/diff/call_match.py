"""Which call of the port is which of the reference, from what they receive and return.

Values say what is equal; a call says what belongs together: the input that three projections share, the result that
is wrong although everything around it is right. The score of two calls is the share of their inputs and results that
correspond: 1 for equal values, a half for tensors of one size of which no one knows.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from firstdiff.diff.call_names import say_the_same, unlike_lengths
from firstdiff.diff.layout import candidates
from firstdiff.diff.leaves import kind_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from firstdiff.diff.calls import Call
    from firstdiff.diff.value_match import ValueMatches
    from firstdiff.traces.schema import Activation, Site

LEAST = 0.25
"""Calls whose score is lower are not paired."""
_UNKNOWN, _TAKEN = 0.5, 0.25
"""What two tensors of one size count when neither has an equal, and when the port's equals something else."""
_NAME = 0.1
"""What the same name adds to the score in the order in which pairs are chosen."""
_SITES: tuple[Site, ...] = ("input", "output")


@dataclass(frozen=True)
class CallPair:
    """One call of the reference and the same one of the port."""

    reference: Call
    """The reference's."""
    port: Call
    """The port's."""
    score: float
    """How much of what they receive and return corresponds, 0 to 1."""
    equal: tuple[tuple[Activation, Activation], ...]
    """Inputs and results that are equal."""
    like: tuple[tuple[Activation, Activation], ...]
    """Those of one size that are not known to be equal."""

    @property
    def instead(self) -> tuple[tuple[Activation, Activation], ...]:
        """Those of ``like`` that are inputs: what the port's call was given in place of the reference's."""
        return tuple((a, b) for a, b in self.like if a.key.site == "input")


def match_calls(
    ours: Sequence[Call],
    theirs: Sequence[Call],
    values: ValueMatches,
    known: Iterable[tuple[Call, Call]] = (),
) -> list[CallPair]:
    """Calls paired by the values that they share, the surest first; ``known`` ones are taken as they are."""
    made = [correspondence(one, other, values) for one, other in known]
    used = {id(p.reference) for p in made} | {id(p.port) for p in made}
    by_value: dict[tuple[Site, int], list[Call]] = defaultdict(list)
    for call in theirs:
        for token in _tokens(call, values):
            by_value[token].append(call)
    scored = []
    for one in ours:
        if id(one) in used:
            continue
        shared: dict[int, Call] = {}
        for site in _SITES:
            for a in one.at(site):
                number = values.theirs_of(a)
                found = by_value.get((site, number), ()) if number is not None else ()
                shared |= {id(call): call for call in found if id(call) not in used}
        scored += [correspondence(one, other, values) for other in shared.values()]
    scored.sort(key=_surest)
    for pair in scored:
        if pair.score >= LEAST and not {id(pair.reference), id(pair.port)} & used:
            used |= {id(pair.reference), id(pair.port)}
            made.append(pair)
    return made


def _surest(pair: CallPair) -> tuple[float, bool, float, int, int]:
    """Where values leave a choice: by index, then by name, then by how much runs inside, then in order."""
    one, other = pair.reference, pair.port
    score = pair.score + _NAME * say_the_same(one, other)
    return (
        -round(score, 9),
        one.indices != other.indices,
        round(unlike_lengths(one, other), 9),
        one.start,
        other.start,
    )


def _tokens(call: Call, values: ValueMatches) -> set[tuple[Site, int]]:
    """The values that tell what a call is; a value that it passes on unchanged was made by another one."""
    given = {values.number(a) for a in call.at("input")}
    made = {values.number(a) for a in call.at("output")} - given
    found: dict[Site, set[int | None]] = {"input": given, "output": made}
    return {(site, n) for site, numbers in found.items() for n in numbers if n is not None}


def correspondence(one: Call, other: Call, values: ValueMatches) -> CallPair:
    """What two calls have in common, input by input and result by result."""
    equal: list[tuple[Activation, Activation]] = []
    like: list[tuple[Activation, Activation]] = []
    score, slots = 0.0, 0
    for site in _SITES:
        left, right = list(one.at(site)), list(other.at(site))
        slots += len(left) + len(right)
        same = _same(left, right, values)
        equal += same
        rest = _one_size(left, right, values, other)
        like += [(a, b) for a, b, _ in rest]
        score += len(same) + sum(worth for _, _, worth in rest)
        slots -= len(same) + len(rest)
    return CallPair(one, other, score / max(slots, 1), tuple(equal), tuple(like))


def _same(
    left: list[Activation], right: list[Activation], values: ValueMatches
) -> list[tuple[Activation, Activation]]:
    """Equal ones; what is paired is taken out of both lists."""
    made = []
    for a in list(left):
        number = values.theirs_of(a)
        found = None
        if number is not None:
            found = next((b for b in right if values.number(b) == number), None)
        if found is not None:
            left.remove(a)
            right.remove(found)
            made.append((a, found))
    return made


def _one_size(
    left: list[Activation], right: list[Activation], values: ValueMatches, call: Call
) -> list[tuple[Activation, Activation, float]]:
    """Those of one size, in order, that are not known to be equal; each with what it counts.

    The reference's has no equal, or the port had one before ``call`` and gave it something else instead.
    """
    made = []
    for a in left:
        passed_over = _passed_over(a, call, values)
        if values.theirs_of(a) is not None and not passed_over:
            continue
        fitting = (b for b in right if fits(a, b))
        found = next((b for b in fitting if not passed_over or values.number(b) is None), None)
        if found is not None:
            right.remove(found)
            known = passed_over or values.number(found) is not None
            made.append((a, found, _TAKEN if known else _UNKNOWN))
    return made


def _passed_over(given: Activation, call: Call, values: ValueMatches) -> bool:
    """Whether the port had the value ``given`` to the reference's call when its own ``call`` began."""
    number = values.theirs_of(given)
    if number is None or given.key.site != "input":
        return False
    return min(a.order for a in values.holders(number)) < call.start


def fits(one: Activation, other: Activation) -> bool:
    """Whether two activations can be the same value in some layout: one kind, one size, shapes that map."""
    return (
        kind_of(one) == kind_of(other)
        and prod(one.shape) == prod(other.shape)
        and bool(candidates(one.shape, other.shape))
    )
