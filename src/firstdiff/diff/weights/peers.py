"""The matches of the same parameter in every layer: what most of them have is the port's convention."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from firstdiff.diff.weights.match import Match
    from firstdiff.diff.weights.search import Found


class Peers:
    """Families of matches."""

    def __init__(self, found: Found) -> None:
        self.expectation = found.expectation
        self._families: dict[object, list[Match]] = defaultdict(list)
        for match in found.matches:
            self._families[self.expectation.keys(match)[0]].append(match)

    def of(self, match: Match) -> list[Match]:
        """All matches of its family, itself among them."""
        return self._families[self.expectation.keys(match)[0]]

    def orders(self, match: Match) -> Counter[str]:
        """How often each order occurs in its family."""
        return Counter(m.order for m in self.of(match))

    def majority(self, match: Match, what: Callable[[Match], str]) -> str:
        """What most of its family have; empty where all are alike or none leads."""
        counts = Counter(what(m) for m in self.of(match)).most_common(2)
        return counts[0][0] if len(counts) == 2 and counts[0][1] > counts[1][1] else ""
