"""What names did not align, aligned by value; and behind a fault, by place. The last stage of `align`.

Ports made of plain functions have names that say nothing, and a loop calls one function for every layer. Here pairs
are of activations, not of modules: several of the reference's may be one value of the port.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING

from firstdiff.diff.align import Alignment, Pair, leftovers
from firstdiff.diff.between import by_place, by_role
from firstdiff.diff.call_match import CallPair, match_calls
from firstdiff.diff.calls import Call, calls_of, enclosing
from firstdiff.diff.flow import by_flow
from firstdiff.diff.judge import WARN
from firstdiff.diff.laying import closeness
from firstdiff.diff.measure import Side
from firstdiff.diff.value_index import ValueIndex
from firstdiff.diff.value_match import ValueMatches

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from firstdiff.diff.compare import Comparison
    from firstdiff.diff.modules import Evidence
    from firstdiff.traces.schema import Activation

WORTHWHILE = 0.1
"""Share of the reference's activations without a partner from which values are looked at."""
MOSTLY = 0.5
"""Share from which values are asked before fused modules are looked for."""
SURE, BY_ROLE, BY_PLACE = 0.99, 0.8, 0.6
"""Confidence of equal values; of a call whose like was matched by value in another layer; of the order of running."""


def with_values(alignment: Alignment, comparison: Comparison) -> Alignment:
    """``alignment`` with pairs by value added where names left a good share unpaired.

    Pairs of evidence `values` agree. Where the result does not, calls between matched neighbours are paired
    as well, with evidence `neighbours`: so the fault shows where it is made.
    """
    missing, extra = _left(alignment, "reference"), _left(alignment, "port")
    if alignment.valued or not extra or _share(alignment) < WORTHWHILE:
        return alignment
    return _Stage(alignment, comparison, missing, extra).result()


def names_say_little(alignment: Alignment) -> bool:
    """Whether most of the reference has no partner by name, so that values are to be asked before anything else."""
    return _share(alignment) > MOSTLY


def _left(alignment: Alignment, side: str) -> list[Activation]:
    return [u.activation for u in alignment.unmatched if u.side == side]


def _share(alignment: Alignment) -> float:
    """Share of the reference's activations that have no partner."""
    missing = len(_left(alignment, "reference"))
    paired = len({pair.reference.order for pair in alignment.pairs})
    return missing / max(missing + paired, 1)


class _Stage:
    """One run of this stage."""

    def __init__(
        self,
        alignment: Alignment,
        comparison: Comparison,
        missing: Sequence[Activation],
        extra: Sequence[Activation],
    ) -> None:
        self.alignment, self.comparison = alignment, comparison
        self.missing = {a.order: a for a in missing}
        self.extra = {a.order: a for a in extra}
        self.made: dict[int, Pair] = {}
        self.used: set[int] = {pair.port.order for pair in alignment.pairs}
        self.ours = calls_of([*_unique(p.reference for p in alignment.pairs), *missing])
        self.theirs = calls_of([*_unique(p.port for p in alignment.pairs), *extra])
        self.around = enclosing(self.ours), enclosing(self.theirs)
        self._rooted = any(not call.path for call in self.theirs)
        self.values = self._match_values([a for a in missing if a.place is not None])

    def result(self) -> Alignment:
        """The alignment with what was found."""
        calls = match_calls(self.ours, self.theirs, self.values, self._known())
        calls = by_flow(calls, self.theirs, self.values)
        self._equal(calls)
        agrees = self._agrees()
        if not agrees:
            self._instead(calls)
        self._anywhere()
        if not agrees:
            self._like(calls, BY_PLACE)
            self._behind(calls)
            self._handed_on()
        pairs = sorted(
            (*self.alignment.pairs, *self.made.values()), key=lambda pair: pair.reference.order
        )
        missing = [a for order, a in self.missing.items() if order not in self.made]
        free = [a for order, a in self.extra.items() if order not in self.used]
        extra = [a for a in free if self.values.number(a) is None]
        return replace(
            self.alignment,
            pairs=tuple(pairs),
            unmatched=leftovers(missing, extra),
            valued=True,
            again=self.alignment.again + len(free) - len(extra),
        )

    def _match_values(self, wanted: Sequence[Activation]) -> ValueMatches:
        comparison = self.comparison
        there = [a for call in self.theirs for a in call.activations if a.place is not None]
        return ValueMatches(
            ValueIndex(comparison.reference, wanted, padding=comparison.padding),
            ValueIndex(comparison.port, there, padding=comparison.padding),
            self._tolerance,
        )

    def _tolerance(self, reference: Activation, port: Activation) -> float:
        """Relative L2 within which two activations agree: the judge's own limit."""
        norm = reference.digest.rms if reference.digest is not None else 1.0
        floor = self.comparison.floors.of(reference, port, norm, prod(reference.shape))
        return WARN * floor.relative

    def _known(self) -> list[tuple[Call, Call]]:
        """Calls that earlier stages paired, each once."""
        home = {a.order: call for call in self.ours for a in call.activations}
        there = {a.order: call for call in self.theirs for a in call.activations}
        found: dict[int, tuple[Call, Call]] = {}
        for pair in self.alignment.pairs:
            one, other = home[pair.reference.order], there[pair.port.order]
            if id(other) not in {id(b) for _, b in found.values()}:
                found.setdefault(id(one), (one, other))
        return list(found.values())

    def _equal(self, calls: Iterable[CallPair]) -> None:
        """Pairs of equal values inside paired calls."""
        for call in calls:
            for one, other in call.equal:
                self._add(one, other, "values", SURE)

    def _instead(self, calls: Iterable[CallPair]) -> None:
        """What calls that share a value were given in place of what the reference was, although the port had it."""
        for call in calls:
            wrong = [(a, b) for a, b in call.instead if self.values.theirs_of(a) is not None]
            if call.equal and not any(self._is_right(c) for c in self.around[0][call.reference]):
                for one, other in wrong:
                    self._add(one, other, "neighbours", BY_PLACE)

    def _anywhere(self) -> None:
        """What is left and has an equal anywhere in the port, with what made that."""
        for one in self.missing.values():
            number = self.values.theirs_of(one)
            if one.order in self.made or number is None:
                continue
            holders = [b for b in self.values.holders(number) if self._may_pair(one, b)]
            likely = [b for b in holders if b.key.site == one.key.site] or holders
            if not likely:
                continue
            self._add(
                one,
                next((b for b in likely if b.order not in self.used), likely[0]),
                "values",
                SURE,
            )

    def _like(self, calls: Iterable[CallPair], confidence: float) -> None:
        """Pairs of paired calls that are not known to be equal, where nothing around them agrees."""
        for call in calls:
            if any(self._is_right(outer) for outer in self.around[0][call.reference]):
                continue
            for one, other in call.like:
                if other.order not in self.used:
                    self._add(one, other, "neighbours", confidence)

    def _behind(self, calls: list[CallPair]) -> None:
        """Calls of which no value is equal: by role, then by place, as long as any is found."""
        ours = [c for c in self.ours if c.path and not self._inside_right(c)]
        theirs = [c for c in self.theirs if c.path]
        looked = [*ours, *(p.reference for p in calls if p.reference not in ours)]
        ordered = sorted(looked, key=lambda call: call.start)
        fresh = by_role(ordered, theirs, calls, self.values)
        self._like(fresh, BY_ROLE)
        calls += fresh
        fresh = by_place(ordered, theirs, calls, self.values, self.around, self._closeness)
        self._like(fresh, BY_PLACE)
        calls += fresh
        again = by_role(ordered, theirs, calls, self.values)
        self._like(again, BY_PLACE)

    def _handed_on(self) -> None:
        """Results that the port makes nowhere, where the reference hands them on as they are: what it hands on instead.

        A function that is written into its caller shows in no other way.
        """
        taken: dict[tuple[int, int], Activation] = {}
        for pair in (*self.alignment.pairs, *self.made.values()):
            key, digest = pair.reference.key, pair.reference.digest
            if key.site == "input" and digest is not None:
                taken.setdefault((key.step, digest.checksum), pair.port)
        for one in self.missing.values():
            if one.key.site == "output" and one.digest is not None:
                other = taken.get((one.key.step, one.digest.checksum))
                if other is not None and self.values.theirs_of(one) is None:
                    self._add(one, other, "neighbours", BY_PLACE)

    def _closeness(self, one: Activation, other: Activation) -> float:
        if one.place is None or other.place is None:
            return 0.0
        ours = Side(self.comparison.reference.stored(one), one.dtype)
        theirs = Side(self.comparison.port.stored(other), other.dtype)
        return closeness(ours, theirs, self.comparison.padding)

    def _inside_right(self, call: Call) -> bool:
        return any(self._is_right(outer) for outer in (call, *self.around[0][call]))

    def _is_right(self, call: Call) -> bool:
        """Whether all that a call of the reference returned has its equal in the port: then nothing in it is wrong."""
        results = call.at("output")
        return (
            bool(call.path)
            and bool(results)
            and all(self.values.theirs_of(a) is not None for a in results)
        )

    def _agrees(self) -> bool:
        """Whether the model's result agrees; the last value of the reference where no result is compared."""
        results = [
            pair
            for pair in self.alignment.pairs
            if not pair.reference.key.path and pair.reference.key.site == "output"
        ]
        if results:
            return not any(self.comparison.row(pair, "").verdict.bad for pair in results)
        last = [a for call in self.ours for a in call.at("output")]
        if not last:
            return True
        final = max(last, key=lambda a: a.order)
        return self.values.theirs_of(final) is not None

    def _may_pair(self, one: Activation, other: Activation) -> bool:
        """Whether values may pair them: what the model returns is nothing less than what the port's call returns."""
        result = one.key.site == "output" and not one.key.path
        return not (result and self._rooted and other.key.path)

    def _add(
        self, one: Activation, other: Activation, evidence: Evidence, confidence: float
    ) -> None:
        if one.order not in self.missing or one.order in self.made:
            return
        if not self._may_pair(one, other):
            return
        self.made[one.order] = Pair(one, other, evidence, "position", confidence=confidence)
        self.used.add(other.order)


def _unique(activations: Iterable[Activation]) -> list[Activation]:
    return list({a.order: a for a in activations}.values())
