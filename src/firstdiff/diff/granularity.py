"""Pairs between a module of one side and several of the other: slices of a fused projection, experts out of a batch.

After `align`, which pairs module with module, and apart from it because values decide here.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from firstdiff.diff.align import Alignment, Pair, leftovers
from firstdiff.diff.cutting import Fitted, Member, fit
from firstdiff.diff.fusion import Fusion, Sides, fusions, only
from firstdiff.diff.fusion_words import Told, family, sentences
from firstdiff.diff.inference import NEAR
from firstdiff.diff.measure import Side
from firstdiff.diff.modules import modules_of
from firstdiff.traces import digest
from firstdiff.traces.padding import valid_elements
from firstdiff.traces.part import part_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from firstdiff.diff.compare import Comparison
    from firstdiff.diff.modules import Module
    from firstdiff.diff.slicing import Slicing
    from firstdiff.traces import Trace
    from firstdiff.traces.schema import Activation

_WEAK = ("graph", "only candidate", "neighbours")
"""Evidence of pairs that are given up where names or weights say that a module is a part of another."""
_PLAUSIBLE = 0.5
"""Without names or weights, a fusion is believed when every member is within this relative L2, and one near the
floor: unrelated tensors are 1.4 apart."""


def with_parts(
    alignment: Alignment, comparison: Comparison, by_weights: Iterable[tuple[str, str]] = ()
) -> Alignment:
    """``alignment`` with what was left over paired in parts, where modules of the two sides differ in size.

    ``by_weights`` are (reference path, port path) of modules of which one holds a part of the other's parameters.
    """
    found = _Finder(alignment, comparison).run(tuple(by_weights))
    if not found.pairs:
        return alignment
    used = {id(a) for a in found.used}
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


@dataclass(frozen=True)
class _Slot:
    """One call of a fused module and of its members."""

    whole: Activation
    members: tuple[Activation, ...]
    inputs: tuple[tuple[Activation, Activation], ...]
    """(whole's input, a member's)."""


class _Finder:
    """Goes through what may be fused; a module belongs to one fusion."""

    def __init__(self, alignment: Alignment, comparison: Comparison) -> None:
        self.comparison = comparison
        self.alignment = alignment
        self.pairs: list[Pair] = []
        self.used: list[Activation] = []
        self._taken: set[tuple[str, str, str]] = set()
        self._weak = [p for p in alignment.pairs if p.evidence in _WEAK and p.reference.key.path]
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
        """Whether a module of it has a partner already, one that rests on no less."""
        if any(name in self._taken for name in self._names(fusion)):
            return True
        modules = (fusion.whole, *fusion.members)
        paired = {id(a) for m in modules for a in m.activations} & self._doubtful
        return fusion.evidence == "values" and bool(paired)

    def _try(self, fusion: Fusion) -> None:
        """Pair the calls of ``fusion``, when its elements do not speak against it."""
        made: list[tuple[_Slot, Fitted, float]] = []
        for slot in _slots(fusion):
            found = self._fitted(fusion, slot)
            if found is not None:
                made.append((slot, *found))
        if not made:
            return
        if fusion.evidence == "values" and not all(_believed(f, limit) for _, f, limit in made):
            return
        self._taken.update(self._names(fusion))
        for slot, fitted, limit in made:
            self._usual[family(fusion)] = fitted.slicing
            self.told.append(Told(fusion, fitted.slicing, fitted.fits(limit)))
            self._pair(fusion, slot, fitted)

    def _fitted(self, fusion: Fusion, slot: _Slot) -> tuple[Fitted, float] | None:
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

    def _traces(self, fusion: Fusion) -> tuple[Trace, Trace]:
        """(trace of the whole, trace of the members)."""
        both = self.comparison.reference, self.comparison.port
        return both if fusion.side == "reference" else (both[1], both[0])

    def _noise(self, fusion: Fusion, whole: Activation, member: Activation) -> float:
        ours, theirs = (whole, member) if fusion.side == "reference" else (member, whole)
        return self.comparison.floors.of(ours, theirs, 1.0, int(np.prod(member.shape))).relative

    def _pair(self, fusion: Fusion, slot: _Slot, fitted: Fitted) -> None:
        trace, _ = self._traces(fusion)
        for member, cut, other in zip(
            slot.members, fitted.slicing.cuts, fitted.others, strict=True
        ):
            stored = cut.of(trace.stored(slot.whole))
            part = part_of(slot.whole, cut, digest(np.ascontiguousarray(stored), slot.whole.dtype))
            hint = f"no slicing fits all; {other} would fit" if other else ""
            self._add(fusion, part, member, hint)
            self.used += [slot.whole, member]
        for given, taken in slot.inputs:
            self._add(fusion, given, taken)
            self.used += [given, taken]

    def _add(self, fusion: Fusion, whole: Activation, member: Activation, hint: str = "") -> None:
        ours, theirs = (whole, member) if fusion.side == "reference" else (member, whole)
        self.pairs.append(Pair(ours, theirs, fusion.evidence, hint=hint))


def _slots(fusion: Fusion) -> Iterator[_Slot]:
    """The calls in which the whole and every member returned one floating-point tensor."""
    results = [_results(module) for module in (fusion.whole, *fusion.members)]
    given = [_results(module, "input") for module in (fusion.whole, *fusion.members)]
    for slot, whole in results[0].items():
        members = [found.get(slot) for found in results[1:]]
        if any(member is None for member in members):
            continue
        own = given[0].get(slot)
        inputs = [
            (own, other)
            for found in given[1:]
            if own is not None and (other := found.get(slot)) is not None
            if np.prod(own.shape) == np.prod(other.shape)
        ]
        yield _Slot(whole, tuple(m for m in members if m is not None), tuple(inputs))


def _results(module: Module, site: str = "output") -> dict[tuple[int, int], Activation]:
    groups: dict[tuple[int, int], list[Activation]] = defaultdict(list)
    for activation in module.activations:
        if activation.key.site == site:
            groups[activation.key.step, activation.key.call].append(activation)
    found = {slot: only(activations) for slot, activations in groups.items()}
    return {slot: activation for slot, activation in found.items() if activation is not None}


def _believed(fitted: Fitted, limit: float) -> bool:
    return min(fitted.errors) <= limit and max(fitted.errors) <= _PLAUSIBLE
