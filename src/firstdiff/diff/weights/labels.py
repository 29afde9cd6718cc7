"""How the parameters of a match are spelt in a verdict: name, slice, part."""

from __future__ import annotations

from typing import TYPE_CHECKING

from firstdiff.diff.weights.whole import Unit
from firstdiff.diff.weights.wording import indices

if TYPE_CHECKING:
    from firstdiff.diff.weights.match import Match, Side


class Labels:
    """Spells the parameters of both sides."""

    def __init__(self, reference: Side, port: Side) -> None:
        self.reference, self.port = reference, port

    def of_reference(self, match: Match) -> str:
        """Name of the reference's parameter, with the slice or part that the match is about."""
        name = self.reference.parameters[match.reference].name
        return (
            name
            + indices(match.reference_fixed)
            + (f" {match.reference_part}" if match.reference_part else "")
        )

    def of_unit(self, unit: Unit, part: str = "") -> str:
        """Name of a port unit, with its slice and part."""
        return (
            self.port.parameters[unit.number].name
            + indices(unit.fixed)
            + (f" {part}" if part else "")
        )

    def of_port(self, match: Match) -> str:
        """Name of the port's parameter, with the slice or part that the match is about."""
        return self.of_unit(Unit(match.port, match.port_fixed), match.port_part)
