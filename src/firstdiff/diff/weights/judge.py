"""From what was found to what is right: each match against its place, its layer's convention and its family."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from firstdiff.diff.weights.approximate import name_factor
from firstdiff.diff.weights.convention import Conventions, expected_axes
from firstdiff.diff.weights.fault import Fault
from firstdiff.diff.weights.labels import Labels
from firstdiff.diff.weights.naming import leaf_word
from firstdiff.diff.weights.peers import Peers
from firstdiff.diff.weights.placement import Placement
from firstdiff.diff.weights.verdict import Finding, Verdict
from firstdiff.diff.weights.whole import Unit
from firstdiff.diff.weights.wording import finding_of, transform

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from firstdiff.diff.weights.match import Match
    from firstdiff.diff.weights.search import Found

_CONVENTIONAL = frozenset({"rotary", "axes", "regrouped"})
"""Changes of order that code can make up for, when all layers have them."""


class Judge:
    """Judges matches against each other."""

    def __init__(self, found: Found) -> None:
        self.found = found
        self.reference, self.port = found.reference, found.port
        self.conventions = Conventions(found.reference, found.port, found.matches)
        self.holders = {Unit(m.port, m.port_fixed): m for m in found.matches if m.rows is None}
        self.labels = Labels(found.reference, found.port)
        self._placement = Placement(found, self.labels, self.holders)
        self._peers = Peers(found)

    def verdict(self, match: Match) -> Verdict:
        """The verdict of one match; the first thing wrong decides."""
        tests: tuple[Callable[[Match], Fault | None], ...] = (
            self._placement.fault,
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
            reference=self.labels.of_reference(match),
            port=self.labels.of_port(match),
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

    def _partial(self, match: Match) -> Fault | None:
        name = self.reference.parameters[match.reference].name
        if match.detail.startswith(("quantised", "int", "uint", "float8")):
            return Fault("note", "quantised", f"{name}: {match.detail}")
        if match.share < 1.0 or not match.detail or not match.certain:
            return None  # what is missing from pieces is judged for all of them together
        unit = self.labels.of_port(match)
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
            self.labels.of_unit(Unit(first.port, first.port_fixed), first.port_part)
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
        return Fault("wrong", finding, f"{self.labels.of_unit(unit)} is {finding}: {why}", remedy)

    def _axes(self, match: Match) -> Fault | None:
        if match.forced or match.turn or match.reference_fixed or match.port_fixed:
            return None
        reference, port = (
            self.reference.parameters[match.reference],
            self.port.parameters[match.port],
        )
        expected = expected_axes(reference, port) or self._peers.majority(
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
        peers = self._peers.orders(match)
        if not match.order:
            return None
        unit = self.labels.of_port(match)
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
        unit = self.labels.of_port(match)
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
        group = self._peers.of(match)
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


def _norm(offset: float) -> str:
    return "the stored weight alone" if offset > 0 else "one plus the stored weight"
