"""Layers and roles that are exchanged: values that lie where, going by the other layers, others belong."""

from __future__ import annotations

from collections import defaultdict
from itertools import permutations
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from firstdiff.diff.names import Segments
    from firstdiff.diff.weights.expectation import Expectation
    from firstdiff.diff.weights.match import Match


class Exchanges:
    """Which matches lie in another's place."""

    def __init__(self, expectation: Expectation, matches: Iterable[Match]) -> None:
        self.expectation = expectation
        self._wrong = self._out_of_order(matches)

    def rightful(self, match: Match) -> str:
        """Name of the reference parameter that belongs where ``match`` lies; empty when it is that one."""
        return self._wrong.get(id(match), "")

    def _out_of_order(self, matches: Iterable[Match]) -> dict[int, str]:
        """By id of a match: the reference parameter that belongs where it lies, for exchanged layers and roles."""
        expectation = self.expectation
        groups: dict[tuple[object, object], list[Match]] = defaultdict(list)
        wrong: dict[int, str] = {}
        certain = [m for m in matches if m.certain]
        for match in certain:
            ours, theirs = expectation.keys(match)
            rival = self._rival(match)
            if rival is not None:
                wrong[id(match)] = rival
            else:
                groups[ours, theirs].append(match)
        for members in groups.values():
            inner = [expectation.indices(m) for m in members]
            if len({i for i, _ in inner}) != len(inner) or len({j for _, j in inner}) != len(inner):
                continue
            for place, owner in _exchanged(inner):
                name = self.expectation.reference.parameters[members[owner].reference].name
                wrong[id(members[place])] = name
        return wrong

    def _rival(self, match: Match) -> str | None:
        """The reference parameter that, going by the other layers, belongs where ``match`` lies; None if this one."""
        expectation = self.expectation
        ours, theirs = expectation.keys(match)
        claims = expectation.claims[theirs]
        if not claims[ours]:
            return None  # found by its place, not by its values
        (best, count), *_ = claims.most_common(1)
        if best == ours or best[0] == ours[0]:
            return None
        others = expectation.votes[ours]
        if claims[ours] == count and not self._named_worse(match, best[0]):
            return None
        if len(others) < 2 and claims[ours] == count:
            return None
        if match.rows is not None and best[1] != ours[1]:
            return None
        index = expectation.indices(match)[1]
        return self._name_of(best[0], index) or ".".join(best[0])

    def _named_worse(self, match: Match, rival: Segments) -> bool:
        """Among equally frequent claims, whether the rival's name fits the port's better, and its place is free."""
        expectation = self.expectation
        others = [n for n, name in enumerate(expectation.ours) if name.template == rival]
        return bool(others) and expectation.words(others[0], match.port) > expectation.words(
            match.reference, match.port
        )

    def _name_of(self, template: Segments, index: tuple[int, ...]) -> str:
        for number, name in enumerate(self.expectation.ours):
            if name.template == template and name.index == index[: len(name.index)]:
                return self.expectation.reference.parameters[number].name
        return ""


def _exchanged(indices: list[tuple[tuple[int, ...], tuple[int, ...]]]) -> list[tuple[int, int]]:
    """(member, member that belongs in its place) where layers do not lie in the reference's order.

    Layer and expert may be counted in another order on the two sides: that order is used which explains most.
    """
    owners = sorted(range(len(indices)), key=lambda k: indices[k][0])
    best: list[tuple[int, int]] | None = None
    for axes in permutations(range(min(len(indices[0][1]), 3))):
        order = sorted(range(len(indices)), key=lambda k: tuple(indices[k][1][a] for a in axes))
        wrong = [pair for pair in zip(order, owners, strict=True) if pair[0] != pair[1]]
        if best is None or len(wrong) < len(best):
            best = wrong
    return best or []
