"""From what was found to what is right: each match against its place, its layer's convention and its family."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from firstdiff.diff.weights.approximate import name_factor
from firstdiff.diff.weights.convention import Conventions, expected_axes
from firstdiff.diff.weights.exchanges import Exchanges
from firstdiff.diff.weights.naming import leaf_word
from firstdiff.diff.weights.verdict import Finding, Status, Verdict
from firstdiff.diff.weights.whole import Unit
from firstdiff.diff.weights.wording import finding_of, indices, transform

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from firstdiff.diff.weights.match import Match
    from firstdiff.diff.weights.search import Found

_CONVENTIONAL = frozenset({"rotary", "axes", "regrouped"})
"""Changes of order that code can make up for, when all layers have them."""


@dataclass(frozen=True)
class Fault:
    """Why a match is not simply right."""

    status: Status
    """`wrong` or `note`."""
    finding: Finding
    """In a word."""
    words: str
    """In a sentence."""
    remedy: str = ""
    """What would make it right."""


class Judge:
    """Judges matches against each other."""

    def __init__(self, found: Found) -> None:
        self.found = found
        self.reference, self.port = found.reference, found.port
        self.conventions = Conventions(found.reference, found.port, found.matches)
        self.holders = {Unit(m.port, m.port_fixed): m for m in found.matches if m.rows is None}
        self._exchanges = Exchanges(found.expectation, found.matches)
        self._families = self._count_families()

    def verdict(self, match: Match) -> Verdict:
        """The verdict of one match; the first thing wrong decides."""
        tests: tuple[Callable[[Match], Fault | None], ...] = (
            self._place,
            self._partial,
            self._turned,
            self._axes,
            self._reordered,
            self._factor,
            self._rounding,
        )
        faults = [fault for fault in (test(match) for test in tests) if fault is not None]
        faults.sort(key=lambda fault: fault.status != "wrong")
        base = Verdict(
            reference=self.reference_name(match),
            port=self.port_name(Unit(match.port, match.port_fixed), match.port_part),
            status="right",
            finding=finding_of(match),
            transform=transform(match),
            certain=match.certain,
            module=self.reference.parameters[match.reference].owner,
            port_module=self.port.parameters[match.port].owner,
        )
        if not faults:
            return base
        first = faults[0]
        return replace(
            base,
            status=first.status,
            finding=first.finding,
            words="; ".join(f.words for f in faults if f.status == first.status),
            remedy=first.remedy,
        )

    def reference_name(self, match: Match) -> str:
        """Its name, with the slice or part that the match is about."""
        name = self.reference.parameters[match.reference].name
        return (
            name
            + indices(match.reference_fixed)
            + (f" {match.reference_part}" if match.reference_part else "")
        )

    def port_name(self, unit: Unit, part: str = "") -> str:
        """Name of a port unit, with its slice and part."""
        return (
            self.port.parameters[unit.number].name
            + indices(unit.fixed)
            + (f" {part}" if part else "")
        )

    # Its place --------------------------------------------------------------------------------------------------

    def _place(self, match: Match) -> Fault | None:
        unit = Unit(match.port, match.port_fixed)
        here = self.reference.parameters[match.reference]
        if self._crossed(match):
            other = self.found.expectation.named(match.reference)
            there = (
                f"; {self.port_name(other)} holds {self._content(other)}"
                if other is not None
                else ""
            )
            return Fault(
                "wrong",
                "exchanged",
                f"{self.port_name(unit, match.port_part)} equals the reference's {here.name}{there}",
                f"load {here.name} into {self.port_name(other) if other is not None else 'its own place'}",
            )
        right = self._exchanges.rightful(match)
        if right:
            return Fault(
                "wrong",
                "exchanged",
                f"{self.port_name(unit, match.port_part)} equals the reference's {here.name}, "
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

    # What is there ----------------------------------------------------------------------------------------------

    def _partial(self, match: Match) -> Fault | None:
        name = self.reference.parameters[match.reference].name
        if match.detail.startswith(("quantised", "int", "uint", "float8")):
            return Fault("note", "quantised", f"{name}: {match.detail}")
        if match.share < 1.0 or not match.detail or not match.certain:
            return None  # what is missing from pieces is judged for all of them together
        unit = self.port_name(Unit(match.port, match.port_fixed), match.port_part)
        return Fault(
            "wrong",
            "differs",
            f"{unit} is not quite the reference's {name}: {match.detail}",
            "load it again",
        )

    def partial(self, matches: Sequence[Match]) -> Verdict | None:
        """The verdict on what is missing from a parameter that was found in pieces; None when nothing is."""
        first = matches[0]
        if first.share == 1.0:
            return None
        name = self.reference.parameters[first.reference].name
        ports = {m.port for m in matches}
        where = (
            self.port_name(Unit(first.port, first.port_fixed), first.port_part)
            if len(ports) == 1
            else ""
        )
        where = self.found.expectation.other_parts(matches) or where
        return Verdict(
            name,
            where,
            "wrong",
            "partly",
            words=f"{where or 'the port'} does not hold all of the reference's {name}: {first.detail}",
            remedy="load it again",
            module=self.reference.parameters[first.reference].owner,
            port_module=where.split(" ")[0].rpartition(".")[0],
        )

    def _turned(self, match: Match) -> Fault | None:
        if not match.turn or match.forced:
            return None
        expected, why = self.conventions.expected(match)
        if not expected or expected == match.turn:
            return None
        unit = Unit(match.port, match.port_fixed)
        finding: Finding = "not transposed" if expected == "turned" else "wrongly transposed"
        remedy = "transpose it" if expected == "turned" else "load it untransposed"
        return Fault("wrong", finding, f"{self.port_name(unit)} is {finding}: {why}", remedy)

    def _axes(self, match: Match) -> Fault | None:
        if match.forced or match.turn or match.reference_fixed or match.port_fixed:
            return None
        reference, port = (
            self.reference.parameters[match.reference],
            self.port.parameters[match.port],
        )
        expected = expected_axes(reference, port) or self._family_majority(
            match, lambda m: m.relation
        )
        if not expected or expected == match.relation or len(reference.shape) < 3:
            return None
        return Fault(
            "wrong",
            "wrong axes",
            f"{port.name} is the reference's with {match.relation}, not {expected}",
            f"use {expected}",
        )

    def _reordered(self, match: Match) -> Fault | None:
        peers = self._orders(match)
        if not match.order:
            return None
        unit = self.port_name(Unit(match.port, match.port_fixed), match.port_part)
        words = f"{unit} has {match.order.replace(' inside:', ':')}"
        alone = len(peers) > 1 and peers.most_common(1)[0][0] != match.order
        if alone or (len(peers) > 1 and peers[""] == peers[match.order]):
            return Fault(
                "wrong",
                "reordered",
                f"{words}, other layers have not",
                "load it in the order of the others",
            )
        if match.order_kind in _CONVENTIONAL:
            return Fault("note", "reordered", f"{words}; right if the port's code undoes it")
        return Fault("wrong", "reordered", words, "load it in the reference's order")

    def _factor(self, match: Match) -> Fault | None:
        unit = self.port_name(Unit(match.port, match.port_fixed), match.port_part)
        name = self.reference.parameters[match.reference].name
        if match.offset:
            group = [m for m in self.found.matches if self._is_norm(m)]
            alike = sum(m.offset == match.offset for m in group)
            words = f"{unit} is the reference's {name} {'+' if match.offset > 0 else '-'} {abs(match.offset):g}"
            if 2 * alike <= len(group) and alike < len(group):
                return Fault(
                    "wrong", "offset", f"{words}, other norms are not", "load it as the others"
                )
            return Fault(
                "note", "offset", f"{words}; right if the port multiplies by {_norm(match.offset)}"
            )
        if match.scale == 1.0:
            return None
        words = f"{unit} is {name_factor(match.scale)} times the reference's {name}"
        group = self._family(match)
        alike = sum(abs(m.scale / match.scale - 1) < 1e-2 for m in group)
        if 2 * alike <= len(group) and len(group) > 1:
            return Fault("wrong", "scaled", f"{words}, other layers are not", "load it unscaled")
        return Fault("note", "scaled", f"{words}; right if the port's code leaves the factor out")

    def _rounding(self, match: Match) -> Fault | None:
        first, second = self.reference.prints[match.reference], self.port.prints[match.port]
        if match.grain == "float32" or match.certain is False or first.grain == match.grain:
            return None
        if second.grain == match.grain:
            return self._lost_precision(match)
        return Fault("note", "arranged", f"equal only after rounding both to {match.grain}")

    def _lost_precision(self, match: Match) -> Fault | None:
        """Rounding once, to the port's own dtype, is what loading does; keeping that in a wider one is not."""
        port = self.port.parameters[match.port]
        if port.dtype not in ("float32", "float64"):
            return None
        return Fault(
            "note",
            "arranged",
            f"{port.name} is {port.dtype}, but its values were rounded to {match.grain}: the reference's are finer",
        )

    def _is_norm(self, match: Match) -> bool:
        parameter = self.reference.parameters[match.reference]
        return len(parameter.shape) == 1 and leaf_word(parameter.leaf) == "weight"

    # Families ---------------------------------------------------------------------------------------------------

    def _count_families(self) -> dict[object, list[Match]]:
        families: dict[object, list[Match]] = defaultdict(list)
        for match in self.found.matches:
            families[self.found.expectation.keys(match)[0]].append(match)
        return families

    def _family(self, match: Match) -> list[Match]:
        return self._families[self.found.expectation.keys(match)[0]]

    def _orders(self, match: Match) -> Counter[str]:
        return Counter(m.order for m in self._family(match))

    def _family_majority(self, match: Match, what: Callable[[Match], str]) -> str:
        counts = Counter(what(m) for m in self._family(match)).most_common(2)
        return counts[0][0] if len(counts) == 2 and counts[0][1] > counts[1][1] else ""


def _norm(offset: float) -> str:
    return "the stored weight alone" if offset > 0 else "one plus the stored weight"
