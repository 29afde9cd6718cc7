"""From what was found to what is right and wrong: each match against its place, its layer's convention and its family."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import permutations

from firstdiff.diff.names import Segments
from firstdiff.diff.weights.approximate import name_factor
from firstdiff.diff.weights.convention import Conventions, expected_axes
from firstdiff.diff.weights.match import Fixed, Match
from firstdiff.diff.weights.naming import leaf_word
from firstdiff.diff.weights.search import Found
from firstdiff.diff.weights.verdict import Finding, Status, Verdict
from firstdiff.diff.weights.whole import Unit

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
        self._misplaced = self._out_of_order()
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
            finding=_finding(match),
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
        return name + _indices(match.reference_fixed) + (f" {match.reference_part}" if match.reference_part else "")

    def port_name(self, unit: Unit, part: str = "") -> str:
        """Name of a port unit, with its slice and part."""
        return self.port.parameters[unit.number].name + _indices(unit.fixed) + (f" {part}" if part else "")

    # Its place --------------------------------------------------------------------------------------------------

    def _place(self, match: Match) -> Fault | None:
        unit = Unit(match.port, match.port_fixed)
        here = self.reference.parameters[match.reference]
        if self._crossed(match):
            other = self.found.expectation.named(match.reference)
            there = f"; {self.port_name(other)} holds {self._content(other)}" if other is not None else ""
            return Fault(
                "wrong",
                "exchanged",
                f"{self.port_name(unit, match.port_part)} equals the reference's {here.name}{there}",
                f"load {here.name} into {self.port_name(other) if other is not None else 'its own place'}",
            )
        if id(match) in self._misplaced:
            right = self._misplaced[id(match)]
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
        return "something else" if match is None else f"its {self.reference.parameters[match.reference].name}"

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

    def _out_of_order(self) -> dict[int, str]:
        """By id of a match: the reference parameter that belongs where it lies, for exchanged layers and roles."""
        expectation = self.found.expectation
        groups: dict[tuple[object, object], list[Match]] = defaultdict(list)
        wrong: dict[int, str] = {}
        certain = [m for m in self.found.matches if m.certain]
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
                name = self.reference.parameters[members[owner].reference].name
                wrong[id(members[place])] = name
        return wrong

    def _rival(self, match: Match) -> str | None:
        """The reference parameter that, going by the other layers, belongs where ``match`` lies; None when it is this."""
        expectation = self.found.expectation
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
        expectation = self.found.expectation
        others = [n for n, name in enumerate(expectation.ours) if name.template == rival]
        return bool(others) and expectation.words(others[0], match.port) > expectation.words(
            match.reference, match.port
        )

    def _name_of(self, template: Segments, index: tuple[int, ...]) -> str:
        for number, name in enumerate(self.found.expectation.ours):
            if name.template == template and name.index == index[: len(name.index)]:
                return self.reference.parameters[number].name
        return ""

    # What is there ----------------------------------------------------------------------------------------------

    def _partial(self, match: Match) -> Fault | None:
        name = self.reference.parameters[match.reference].name
        if match.detail.startswith(("quantised", "int", "uint", "float8")):
            return Fault("note", "quantised", f"{name}: {match.detail}")
        if match.share < 1.0 or not match.detail or not match.certain:
            return None  # what is missing from pieces is judged for all of them together
        unit = self.port_name(Unit(match.port, match.port_fixed), match.port_part)
        return Fault("wrong", "differs", f"{unit} is not quite the reference's {name}: {match.detail}", "load it again")

    def partial(self, matches: Sequence[Match]) -> Verdict | None:
        """The verdict on what is missing from a parameter that was found in pieces; None when nothing is."""
        first = matches[0]
        if first.share == 1.0:
            return None
        name = self.reference.parameters[first.reference].name
        ports = {m.port for m in matches}
        where = self.port_name(Unit(first.port, first.port_fixed), first.port_part) if len(ports) == 1 else ""
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
        reference, port = self.reference.parameters[match.reference], self.port.parameters[match.port]
        expected = expected_axes(reference, port) or self._family_majority(match, lambda m: m.relation)
        if not expected or expected == match.relation or len(reference.shape) < 3:
            return None
        return Fault(
            "wrong", "wrong axes", f"{port.name} is the reference's with {match.relation}, not {expected}", f"use {expected}"
        )

    def _reordered(self, match: Match) -> Fault | None:
        peers = self._orders(match)
        if not match.order:
            return None
        unit = self.port_name(Unit(match.port, match.port_fixed), match.port_part)
        words = f"{unit} has {match.order.replace(' inside:', ':')}"
        alone = len(peers) > 1 and peers.most_common(1)[0][0] != match.order
        if alone or (len(peers) > 1 and peers[""] == peers[match.order]):
            return Fault("wrong", "reordered", f"{words}, other layers have not", "load it in the order of the others")
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
                return Fault("wrong", "offset", f"{words}, other norms are not", "load it as the others")
            return Fault("note", "offset", f"{words}; right if the port multiplies by {_norm(match.offset)}")
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
            return None  # rounding once, to the port's own dtype, is what loading does
        return Fault("note", "arranged", f"equal only after rounding both to {match.grain}")

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


def transform(match: Match) -> str:
    """What turns the reference's values into the port's, in words; empty for nothing."""
    parts = [match.relation if match.relation != "equal" else ""]
    if match.port_fixed:
        parts.append("slice " + ", ".join(f"{i} of axis {a}" for a, i in match.port_fixed))
    parts += [match.port_part, match.order]
    if match.scale != 1.0:
        parts.append(f"times {name_factor(match.scale)}")
    if match.offset:
        parts.append(f"{'plus' if match.offset > 0 else 'minus'} {abs(match.offset):g}")
    return ", ".join(part for part in parts if part)


def _finding(match: Match) -> Finding:
    if not match.certain:
        return "constant"
    if match.turn == "turned":
        return "transposed"
    return "equal" if transform(match) == "" else "arranged"


def _indices(fixed: Fixed) -> str:
    return "".join(f"[{':, ' * axis}{index}]" for axis, index in fixed)


def _norm(offset: float) -> str:
    return "the stored weight alone" if offset > 0 else "one plus the stored weight"

