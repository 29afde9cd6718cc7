"""Pairs between a module of one side and several of the other: slices of a fused projection, experts out of a batch.

After `align`, which pairs module with module, and apart from it because values decide here.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from firstdiff.diff.align import Alignment, Pair, leftovers
from firstdiff.diff.cutting import Fitted, Member, fit
from firstdiff.diff.fusion import Fusion, Sides, fusions
from firstdiff.diff.fusion_words import Told, family, sentences
from firstdiff.diff.inference import NEAR
from firstdiff.diff.measure import Side
from firstdiff.diff.modules import modules_of
from firstdiff.diff.routing import expert_rows, with_rows
from firstdiff.diff.slots import Slot, results, slots
from firstdiff.traces import digest
from firstdiff.traces.padding import valid_elements
from firstdiff.traces.part import origin, part_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from firstdiff.diff.compare import Comparison
    from firstdiff.diff.modules import Module
    from firstdiff.diff.slicing import Slicing
    from firstdiff.traces import Trace
    from firstdiff.traces.schema import Activation

_WEAK = ("graph", "only candidate", "values", "neighbours")
"""Evidence of pairs that are given up where names or weights say that a module is a part of another."""
_MOST_FAILED = 32
"""Fusions by size alone that may turn out to be none, before no more are looked for."""
_PLAUSIBLE = 0.5
"""Without names or weights, a fusion is believed when every member is within this relative L2, and one near the
floor: unrelated tensors are 1.4 apart."""


def with_parts(
    alignment: Alignment, comparison: Comparison, by_weights: Iterable[tuple[str, str]] = ()
) -> Alignment:
    """``alignment`` with what was left over paired in parts, where modules of the two sides differ in size.

    ``by_weights`` are (reference path, port path) of modules of which one holds a part of the other's parameters.
    """
    alignment = replace(alignment, pairs=tuple(with_rows(alignment.pairs, comparison)))
    found = _Finder(alignment, comparison).run(tuple(by_weights))
    if not found.pairs:
        return alignment
    used = found.used
    given_up = [p for p in alignment.pairs if used & {id(p.reference), id(p.port)}]
    kept = [p for p in alignment.pairs if not used & {id(p.reference), id(p.port)}]
    return replace(
        alignment,
        pairs=tuple(sorted((*kept, *found.pairs), key=lambda pair: pair.reference.order)),
        unmatched=leftovers(
            _left(alignment, "reference", [p.reference for p in given_up], used),
            _left(alignment, "port", [p.port for p in given_up], used),
        ),
        notes=(*alignment.notes, *sentences(found.told)),
    )


def _left(
    alignment: Alignment,
    side: Literal["reference", "port"],
    given_up: Iterable[Activation],
    used: set[int],
) -> list[Activation]:
    """What is without a partner now, of what had none before and of pairs that were given up."""
    before = [u.activation for u in alignment.unmatched if u.side == side]
    return sorted((a for a in (*before, *given_up) if id(a) not in used), key=lambda a: a.order)


class _Finder:
    """Goes through what may be fused; a module belongs to one fusion."""

    def __init__(self, alignment: Alignment, comparison: Comparison) -> None:
        self.comparison = comparison
        self.alignment = alignment
        self.pairs: list[Pair] = []
        self.used: set[int] = set()
        """By `id`: what has a partner now, and had none, or one that was given up."""
        self._failed = 0
        self._taken: set[tuple[str, str, str]] = set()
        self._weak = [p for p in alignment.pairs if p.evidence in _WEAK and p.reference.key.path]
        self._settled = {
            id(a) for p in alignment.pairs if p.evidence not in _WEAK for a in (p.reference, p.port)
        }
        self._recorded: list[dict[tuple[str, str], Module]] = []
        self._doubtful = {id(a) for p in self._weak for a in (p.reference, p.port)}
        self._usual: dict[object, Slicing] = {}
        self.told: list[Told] = []

    def run(self, by_weights: Sequence[tuple[str, str]]) -> _Finder:
        for sides in self._sides():
            if not sides.wholes or not sides.parts:
                continue
            turned = [pair if sides.side == "reference" else pair[::-1] for pair in by_weights]
            for fusion in fusions(sides, [(a, b) for a, b in turned]):
                if not self._known(fusion):
                    self._try(fusion)
        return self

    def _sides(self) -> Iterator[Sides]:
        free = {
            side: [u.activation for u in self.alignment.unmatched if u.side == side]
            for side in ("reference", "port")
        }
        free["reference"] += [p.reference for p in self._weak]
        free["port"] += [p.port for p in self._weak]
        left = {
            side: modules_of(sorted(found, key=lambda a: a.order)) for side, found in free.items()
        }
        sure = [p for p in self.alignment.pairs if p.evidence not in _WEAK]
        paths = {(p.reference.key.path, p.port.key.path) for p in sure}
        yield Sides(left["reference"], left["port"], dict(paths), "reference")
        back = {port: reference for reference, port in paths}
        yield Sides(left["port"], left["reference"], back, "port")

    def _names(self, fusion: Fusion) -> list[tuple[str, str, str]]:
        other = "port" if fusion.side == "reference" else "reference"
        members = [(other, m.path, m.method) for m in fusion.members]
        return [(fusion.side, fusion.whole.path, fusion.whole.method), *members]

    def _known(self, fusion: Fusion) -> bool:
        """Whether a module of it has a partner already, one that rests on no less; or it is not worth a look."""
        if any(name in self._taken for name in self._names(fusion)):
            return True
        if fusion.evidence == "values" and self._failed >= _MOST_FAILED:
            return True
        modules = (fusion.whole, *fusion.members)
        paired = {id(a) for m in modules for a in m.outputs()} & self._doubtful
        return fusion.evidence == "values" and bool(paired)

    def _try(self, fusion: Fusion) -> None:
        """Pair the calls of ``fusion``, when its elements do not speak against it."""
        fusion = self._complete(fusion)
        if fusion.numbers:
            self._route(fusion)
            return
        made: list[tuple[Slot, Fitted, float]] = []
        for slot in slots(fusion):
            found = self._fitted(fusion, slot)
            if found is not None:
                made.append((slot, *found))
        if not made:
            return
        if fusion.evidence == "values" and not all(_believed(f, limit) for _, f, limit in made):
            self._failed += 1
            return
        self._taken.update(self._names(fusion))
        for slot, fitted, limit in made:
            self._usual[family(fusion)] = fitted.slicing
            self.told.append(Told(fusion, fitted.slicing, fitted.fits(limit)))
            self._pair(fusion, slot, fitted)

    def _fitted(self, fusion: Fusion, slot: Slot) -> tuple[Fitted, float] | None:
        """How the members lie in the whole, and the relative L2 within which they agree."""
        ours, theirs = self._traces(fusion)
        if any(a.place is None for a in (slot.whole, *slot.members)):
            return None
        members = [
            Member(
                Side(theirs.stored(a), a.dtype), valid_elements(a.shape, self.comparison.padding)
            )
            for a in slot.members
        ]
        limit = NEAR * max(self._noise(fusion, slot.whole, a) for a in slot.members)
        whole = Side(ours.stored(slot.whole), slot.whole.dtype)
        fitted = fit(whole, members, limit, self._usual.get(family(fusion)), ordered=fusion.ordered)
        return None if fitted is None else (fitted, limit)

    def _route(self, fusion: Fusion) -> None:
        """Pair each expert with its slice of the whole, cut down to the tokens that it was given."""
        trace, others = self._traces(fusion)
        made, given = results(fusion.whole), results(fusion.whole, "input")
        for number, member in zip(fusion.numbers, fusion.members, strict=True):
            returned, taken = results(member), results(member, "input")
            for slot in made.keys() & given.keys() & returned.keys() & taken.keys():
                found = expert_rows(
                    (given[slot], made[slot]),
                    number,
                    (taken[slot], returned[slot]),
                    trace,
                    others,
                )
                for part, one in found:
                    self._add(fusion, part, one)
        self._taken.update(self._names(fusion))

    def _complete(self, fusion: Fusion) -> Fusion:
        """``fusion`` with all that was recorded of its modules: their inputs may have partners already."""
        if not self._recorded:
            for trace in (self.comparison.reference, self.comparison.port):
                self._recorded.append(
                    {(m.path, m.method): m for m in modules_of(trace.activations)}
                )
        here, there = self._recorded if fusion.side == "reference" else self._recorded[::-1]
        return replace(
            fusion,
            whole=here[fusion.whole.path, fusion.whole.method],
            members=tuple(there[m.path, m.method] for m in fusion.members),
        )

    def _traces(self, fusion: Fusion) -> tuple[Trace, Trace]:
        """(trace of the whole, trace of the members)."""
        both = self.comparison.reference, self.comparison.port
        return both if fusion.side == "reference" else (both[1], both[0])

    def _noise(self, fusion: Fusion, whole: Activation, member: Activation) -> float:
        ours, theirs = (whole, member) if fusion.side == "reference" else (member, whole)
        return self.comparison.floors.of(ours, theirs, 1.0, int(np.prod(member.shape))).relative

    def _pair(self, fusion: Fusion, slot: Slot, fitted: Fitted) -> None:
        trace, _ = self._traces(fusion)
        for member, cut, other in zip(
            slot.members, fitted.slicing.cuts, fitted.others, strict=True
        ):
            stored = cut.of(trace.stored(slot.whole))
            part = part_of(slot.whole, cut, digest(np.ascontiguousarray(stored), slot.whole.dtype))
            hint = f"no slicing fits all; {other} would fit" if other else ""
            self._add(fusion, part, member, hint)
        for given, taken in slot.inputs:
            self._add(fusion, given, taken)
        fitting = None if slot.given is None else self._fitted(fusion, slot.given)
        if slot.given is not None and fitting is not None:
            self._pair(fusion, slot.given, fitting[0])

    def _add(self, fusion: Fusion, whole: Activation, member: Activation, hint: str = "") -> None:
        ours, theirs = (whole, member) if fusion.side == "reference" else (member, whole)
        if ours.key.site == "input" and id(origin(ours)) in self._settled:
            return
        self.pairs.append(Pair(ours, theirs, fusion.evidence, hint=hint))
        self.used |= {id(origin(a)) for a in (ours, theirs)} - self._settled


def _believed(fitted: Fitted, limit: float) -> bool:
    return min(fitted.errors) <= limit and max(fitted.errors) <= _PLAUSIBLE
