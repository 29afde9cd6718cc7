"""Which value of the reference is which of the port, where names do not tell: equal elements, in whatever layout.

A pair made here agrees by construction, so it can anchor a comparison and never accuse. Values that elements alone
cannot tell apart are paired only where the order between agreed neighbours leaves one choice.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from firstdiff.diff.value_index import Value, ValueIndex
    from firstdiff.traces.schema import Activation

DECISIVE = 4.0
"""Of two values within the tolerance, the nearer one is meant when its error is so many times smaller."""
FEWEST = 8
"""Values with fewer elements are equal by chance too easily."""


@dataclass(frozen=True)
class _Edge:
    """Two values within the tolerance of each other."""

    ours: int
    theirs: int
    error: float


class ValueMatches:
    """The values of both traces, and which are the same."""

    def __init__(
        self,
        reference: ValueIndex,
        port: ValueIndex,
        tolerance: Callable[[Activation, Activation], float],
    ) -> None:
        """``tolerance`` of (the reference's activation, the port's) is the relative L2 within which they agree."""
        self.ours = reference.all_values()
        likes = {id(v): v for value in self.ours for v in port.values_like(value.first)}
        self.theirs = tuple(sorted(likes.values(), key=lambda value: value.first.order))
        edges = _edges(self.ours, self.theirs, reference, port, tolerance)
        self._pairs = _by_order(_certain(edges), edges, self.ours, self.theirs)
        self._number_ours = _numbers(self.ours)
        self._number_theirs = _numbers(self.theirs)
        self._matched = set(self._pairs.values())

    def theirs_of(self, reference: Activation) -> int | None:
        """Number of the port's value that equals that of ``reference``; None when none is known to."""
        return self._pairs.get(self._number_ours.get(reference.order, -1))

    def number(self, port: Activation) -> int | None:
        """Number of the value of ``port`` when a value of the reference equals it; else None."""
        number = self._number_theirs.get(port.order)
        return number if number in self._matched else None

    def holders(self, number: int) -> tuple[Activation, ...]:
        """The port's activations that hold the value of that number, those that made it first."""
        value = self.theirs[number]
        made = value.producers
        return (*made, *(a for a in value.activations if a not in made))


def _numbers(values: Sequence[Value]) -> dict[int, int]:
    return {a.order: number for number, value in enumerate(values) for a in value.activations}


def _edges(
    ours: Sequence[Value],
    theirs: Sequence[Value],
    reference: ValueIndex,
    port: ValueIndex,
    tolerance: Callable[[Activation, Activation], float],
) -> list[_Edge]:
    place = {id(value): number for number, value in enumerate(theirs)}
    found = []
    for number, value in enumerate(ours):
        first = value.first
        like = port.values_like(first)
        if not like or value.fingerprint.constant or value.fingerprint.count < FEWEST:
            continue
        limit = max(tolerance(first, other) for other in _one_of_each_dtype(like))
        for match in port.equals(reference.trace.values(first), limit).matches:
            if match.laid.error <= tolerance(first, match.value.first):
                found.append(_Edge(number, place[id(match.value)], match.laid.error))
    return found


def _one_of_each_dtype(values: Iterable[Value]) -> list[Activation]:
    return list({value.first.dtype: value.first for value in values}.values())


def _certain(edges: Sequence[_Edge]) -> dict[int, int]:
    """Pairs of values that are decisively nearest to each other."""
    ours, theirs = _sorted_by(edges, lambda e: e.ours), _sorted_by(edges, lambda e: e.theirs)
    return {
        number: found[0].theirs
        for number, found in ours.items()
        if _is_decisive(found)
        and _is_decisive(theirs[found[0].theirs])
        and theirs[found[0].theirs][0].ours == number
    }


def _sorted_by(edges: Iterable[_Edge], side: Callable[[_Edge], int]) -> dict[int, list[_Edge]]:
    groups: dict[int, list[_Edge]] = defaultdict(list)
    for edge in sorted(edges, key=lambda edge: edge.error):
        groups[side(edge)].append(edge)
    return groups


def _is_decisive(edges: Sequence[_Edge]) -> bool:
    return len(edges) == 1 or edges[1].error > DECISIVE * edges[0].error


def _by_order(
    certain: dict[int, int], edges: Sequence[_Edge], ours: Sequence[Value], theirs: Sequence[Value]
) -> dict[int, int]:
    """``certain`` and what the order between its pairs decides: one choice left on both sides."""
    chain = _longest_chain(sorted((_made(ours[a]), _made(theirs[b])) for a, b in certain.items()))
    taken = set(certain.values())
    choices: dict[int, list[int]] = defaultdict(list)
    for edge in edges:
        if edge.ours in certain or edge.theirs in taken:
            continue
        if _gap(chain, 0, _made(ours[edge.ours])) == _gap(chain, 1, _made(theirs[edge.theirs])):
            choices[edge.ours].append(edge.theirs)
    wanted: dict[int, list[int]] = defaultdict(list)
    for number, found in choices.items():
        for other in found:
            wanted[other].append(number)
    lone = {n: found[0] for n, found in choices.items() if len(found) == 1}
    return certain | {n: other for n, other in lone.items() if len(wanted[other]) == 1}


def _made(value: Value) -> int:
    """When the value was made: the order of the first result that is it, else of its first activation."""
    return (value.producers or value.activations)[0].order


def _longest_chain(pairs: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The longest part of ``pairs`` (sorted) whose second numbers increase too."""
    ends: list[int] = []
    last: list[int] = []
    before: list[int] = []
    for place, (_, order) in enumerate(pairs):
        length = bisect_left(ends, order)
        before.append(last[length - 1] if length else -1)
        ends[length : length + 1] = [order]
        last[length : length + 1] = [place]
    chain = []
    place = last[-1] if last else -1
    while place >= 0:
        chain.append(pairs[place])
        place = before[place]
    return chain[::-1]


def _gap(chain: Sequence[tuple[int, int]], side: int, order: int) -> int:
    """Between which links of ``chain`` the ``order`` lies."""
    return bisect_left(chain, order, key=lambda link: link[side])
