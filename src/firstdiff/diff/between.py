"""Calls between matched neighbours: what runs in the same place of both sides although its values differ.

Behind a fault nothing is equal any more, so values cannot tell which call is which. What is left is weaker, and is
said to be: the same call of another layer that was matched by value; and the order of running, where sizes fit and
either the names say the same or the values resemble each other.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from firstdiff.diff.call_match import CallPair, correspondence, fits
from firstdiff.diff.call_names import say_the_same

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from firstdiff.diff.calls import Call, Role
    from firstdiff.diff.value_match import ValueMatches
    from firstdiff.traces.schema import Activation

LEAST_EVIDENCE = 1.0
"""Of the names and the values together, where order and sizes alone leave a choice."""
_SURE = 0.6
"""Score of a pair of calls from which it teaches which role is which."""
_NAME, _VALUES = 2.0, 1.5
_MOST_LOOKS = 600
"""Pairs of activations whose values are looked at."""


def by_role(
    ours: Sequence[Call], theirs: Sequence[Call], pairs: Sequence[CallPair], values: ValueMatches
) -> list[CallPair]:
    """Unpaired calls whose role was matched by value in other layers, with the same indices."""
    roles = _roles(pairs)
    free = {(call.role, call.indices, call.step): call for call in _unpaired(theirs, pairs, "port")}
    made = []
    for call in _unpaired(ours, pairs, "reference"):
        other = free.pop((roles.get(call.role), call.indices, call.step), None)  # type: ignore[arg-type]  # None is no role
        if other is not None:
            made.append(correspondence(call, other, values))
    return made


def _roles(pairs: Sequence[CallPair]) -> Mapping[Role, Role]:
    """The port's role for a role of the reference, where all sure pairs with the same indices say one thing."""
    votes: dict[Role, Counter[Role]] = defaultdict(Counter)
    for pair in pairs:
        if pair.score >= _SURE and pair.equal and pair.reference.indices == pair.port.indices:
            votes[pair.reference.role][pair.port.role] += 1
    return {role: next(iter(found)) for role, found in votes.items() if len(found) == 1}


def by_place(
    ours: Sequence[Call],
    theirs: Sequence[Call],
    pairs: Sequence[CallPair],
    values: ValueMatches,
    around: tuple[Mapping[Call, Sequence[Call]], Mapping[Call, Sequence[Call]]],
    closeness: Callable[[Activation, Activation], float],
) -> list[CallPair]:
    """Unpaired calls paired in the order of running, each inside the same paired calls and between paired ones.

    ``around`` are the calls around each call, innermost first, of either side (`calls.enclosing`).
    """
    partner = {pair.reference: pair.port for pair in pairs}
    taken = set(partner.values())
    homes: dict[Call | None, tuple[list[Call], list[Call]]] = defaultdict(lambda: ([], []))
    for call in ours:
        home = next((outer for outer in around[0][call] if outer in partner), None)
        homes[None if home is None else partner[home]][0].append(call)
    for call in theirs:
        homes[next((outer for outer in around[1][call] if outer in taken), None)][1].append(call)
    looks = _Looks(closeness)
    made = []
    for here, there in homes.values():
        made += [
            correspondence(one, other, values)
            for one, other in _in_order(here, there, partner, taken, looks)
        ]
    return made


def _in_order(
    ours: Sequence[Call],
    theirs: Sequence[Call],
    partner: Mapping[Call, Call],
    taken: set[Call],
    looks: _Looks,
) -> list[tuple[Call, Call]]:
    """The monotone pairing of unpaired calls with the largest sum of evidence; paired ones are fixed points.

    Between two of them, equally many calls that fit one by one are paired in order.
    """
    free = [call for call in ours if call not in partner]
    if not free or all(call in taken for call in theirs):
        return []
    worth = np.zeros((len(ours), len(theirs)))
    place = {call: number for number, call in enumerate(theirs)}
    for row, one in enumerate(ours):
        if one in partner:
            if partner[one] in place:
                worth[row, place[partner[one]]] = 1e3
            continue
        for column, other in enumerate(theirs):
            if other not in taken and _indices_fit(one, other):
                worth[row, column] = _evidence(one, other, looks)
    chain = _best_chain(worth)
    ends = [(-1, -1), *chain, (len(ours), len(theirs))]
    for (row, column), (next_row, next_column) in pairwise(ends):
        left = [a for a in range(row + 1, next_row) if ours[a] not in partner]
        right = [b for b in range(column + 1, next_column) if theirs[b] not in taken]
        if len(left) == len(right) and all(
            _fit(ours[a], theirs[b]) for a, b in zip(left, right, strict=True)
        ):
            chain += zip(left, right, strict=True)
    return [(ours[a], theirs[b]) for a, b in chain if ours[a] not in partner]


def _fit(one: Call, other: Call) -> bool:
    """Whether indices and sizes allow two calls to be the same."""
    results = any(fits(a, b) for a in one.at("output") for b in other.at("output"))
    given = any(fits(a, b) for a in one.at("input") for b in other.at("input"))
    return _indices_fit(one, other) and results and (given or not one.at("input"))


def _indices_fit(one: Call, other: Call) -> bool:
    return not one.indices or not other.indices or one.indices == other.indices


def _evidence(one: Call, other: Call, looks: _Looks) -> float:
    """How much says that two calls are the same; 0 when their results cannot be, or too little says so."""
    results = [(a, b) for a in one.at("output") for b in other.at("output") if fits(a, b)]
    given = [(a, b) for a in one.at("input") for b in other.at("input") if fits(a, b)]
    if not results or (one.at("input") and not given):
        return 0.0
    evidence = _NAME * say_the_same(one, other)
    evidence += _VALUES * max(looks.closeness(a, b) for a, b in results[:1])
    return evidence + 0.5 if evidence >= LEAST_EVIDENCE else 0.0


class _Looks:
    """How near the values of two activations are, asked a bounded number of times."""

    def __init__(self, closeness: Callable[[Activation, Activation], float]) -> None:
        self._closeness = closeness
        self._left = _MOST_LOOKS
        self._known: dict[tuple[int, int], float] = {}

    def closeness(self, one: Activation, other: Activation) -> float:
        """1 for equal values, 0 for unrelated ones, or when enough was looked at."""
        asked = one.order, other.order
        if asked not in self._known:
            self._left -= 1
            self._known[asked] = self._closeness(one, other) if self._left >= 0 else 0.0
        return self._known[asked]


def _best_chain(worth: np.ndarray) -> list[tuple[int, int]]:
    """Places (row, column), both increasing, with the largest sum (Needleman and Wunsch 1970, gaps free)."""
    rows, columns = worth.shape
    best = np.zeros((rows + 1, columns + 1))
    for row in range(rows):
        taken = np.concatenate([[0.0], best[row, :-1] + worth[row]])
        best[row + 1] = np.maximum.accumulate(np.maximum(best[row], taken))
    chain = []
    row, column = rows, columns
    while row and column:
        if best[row, column] == best[row - 1, column]:
            row -= 1
        elif best[row, column] == best[row, column - 1]:
            column -= 1
        else:
            row, column = row - 1, column - 1
            chain.append((row, column))
    return chain[::-1]


def _unpaired(calls: Sequence[Call], pairs: Sequence[CallPair], side: str) -> list[Call]:
    done = {getattr(pair, side) for pair in pairs}
    return [call for call in calls if call not in done]
