"""Whether values lie in the place where they belong, or in another parameter's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from firstdiff.diff.weights.exchanges import Exchanges
from firstdiff.diff.weights.fault import Fault
from firstdiff.diff.weights.whole import Unit

if TYPE_CHECKING:
    from collections.abc import Mapping

    from firstdiff.diff.weights.labels import Labels
    from firstdiff.diff.weights.match import Match
    from firstdiff.diff.weights.search import Found


class Placement:
    """Judges matches by their places; ``holders`` has the match that holds each unit of the port."""

    def __init__(self, found: Found, labels: Labels, holders: Mapping[Unit, Match]) -> None:
        self.found, self.labels, self.holders = found, labels, holders
        self.reference = found.reference
        self._exchanges = Exchanges(found.expectation, found.matches)

    def fault(self, match: Match) -> Fault | None:
        """What is wrong with the place of ``match``, if anything."""
        here = self.reference.parameters[match.reference]
        if self._crossed(match):
            other = self.found.expectation.named(match.reference)
            there = (
                f"; {self.labels.of_unit(other)} holds {self._content(other)}"
                if other is not None
                else ""
            )
            return Fault(
                "wrong",
                "exchanged",
                f"{self.labels.of_port(match)} equals the reference's {here.name}{there}",
                f"load {here.name} into {self.labels.of_unit(other) if other is not None else 'its own place'}",
            )
        right = self._exchanges.rightful(match)
        if right:
            return Fault(
                "wrong",
                "exchanged",
                f"{self.labels.of_port(match)} equals the reference's {here.name}, "
                f"where {right} belongs",
                f"load {right} there",
            )
        return None

    def _content(self, unit: Unit) -> str:
        match = self.holders.get(unit)
        return (
            "something else"
            if match is None
            else f"its {self.reference.parameters[match.reference].name}"
        )

    def _crossed(self, match: Match) -> bool:
        """Whether the values lie under a name that the reference has for something else."""
        expectation = self.found.expectation
        if match.rows is not None or match.reference_fixed or match.port_part:
            return False
        own = expectation.named(match.reference)
        unit = Unit(match.port, match.port_fixed)
        if own is None or own == unit or own.number == unit.number:
            return False
        holder = self.holders.get(own)
        shared = holder is not None and self._twins(holder.reference, match.reference)
        return not shared and expectation.namesake(unit) is not None

    def _twins(self, one: int, other: int) -> bool:
        first, second = self.reference.prints[one], self.reference.prints[other]
        return first.hashes == second.hashes
