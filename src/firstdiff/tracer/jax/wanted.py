"""What one run of a traced program is to take out: which values, and of loops which iterations."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from firstdiff.tracer.jax.plan import Scan, Slot, loops

if TYPE_CHECKING:
    from firstdiff.tracer.jax.plan import Address, Plan
    from firstdiff.tracer.jax.schedule import Occurrence

Place: TypeAlias = tuple["Address", tuple[int, ...]]
"""A tap and its iterations: what names an occurrence before a run has told its call index."""


@dataclass(frozen=True)
class Wanted:
    """A slice of a program's activations."""

    slots: tuple[Slot, ...]
    """Values to take, numbered by their position; the facts that naming needs come last."""
    facts: frozenset[Slot] = frozenset()
    """Slots of which every iteration is kept, because naming needs them."""
    kept: Mapping[Address, tuple[int, ...]] = field(default_factory=dict)
    """Iterations of a scan that other slots keep, where that is not all of them."""
    places: frozenset[Place] = frozenset()
    """Which activations the slice holds."""
    levels: Mapping[Slot, tuple[Address, ...]] = field(default_factory=dict)
    """Loops around each slot's home that stack its values, outermost first."""

    def streamed(self) -> Wanted:
        """The same, without the facts: a stream needs them before it begins, and drops iterations
        on the host."""
        slots = tuple(slot for slot in self.slots if slot not in self.facts or slot in self.levels)
        return Wanted(slots, places=self.places, levels=self.levels)

    def holds(self, occurrence: Occurrence) -> bool:
        """Whether ``occurrence`` belongs to the slice."""
        return place_of(occurrence) in self.places

    def index(self, occurrence: Occurrence) -> tuple[int | slice, ...]:
        """Index of ``occurrence`` in the value that was taken for its slot."""
        slot = occurrence.slot
        if slot in self.facts or not self.kept:
            return occurrence.index
        levels = iter(self.levels[slot])
        return tuple(
            entry if isinstance(entry, slice) else self._row(next(levels), entry)
            for entry in occurrence.index
        )

    def _row(self, loop: Address, iteration: int) -> int:
        return self.kept[loop].index(iteration) if loop in self.kept else iteration


def place_of(occurrence: Occurrence) -> Place:
    """The tap and the iterations of ``occurrence``."""
    return occurrence.tap.address, occurrence.place


def wanted(plan: Plan, chosen: Sequence[Occurrence]) -> Wanted:
    """What to take for the activations ``chosen``."""
    sizes = {node.address: node.length for node in loops(plan.nodes) if isinstance(node, Scan)}
    stacking = {
        node.address
        for node in loops(plan.nodes)
        if isinstance(node, Scan) or node.kept is not None
    }
    levels = {o.slot: tuple(_enclosing(o.slot, stacking)) for o in chosen}
    seen: dict[Address, set[int]] = {}
    for occurrence in chosen:
        if occurrence.slot in plan.facts:
            continue
        for loop, iteration in zip(levels[occurrence.slot], occurrence.iterations, strict=False):
            if loop in sizes:
                seen.setdefault(loop, set()).add(iteration)
    slots = tuple(dict.fromkeys((*(o.slot for o in chosen), *plan.facts)))
    kept = {loop: tuple(sorted(rows)) for loop, rows in seen.items() if len(rows) < sizes[loop]}
    return Wanted(slots, plan.facts, kept, frozenset(map(place_of, chosen)), levels)


def slices(plan: Plan, chosen: Sequence[Occurrence], passes: int) -> list[Wanted]:
    """``chosen`` in ``passes`` or fewer runs of about as many bytes each, in execution order."""
    seen: set[tuple[Slot, tuple[int, ...]]] = set()
    sizes = []
    for occurrence in chosen:
        value = occurrence.slot, occurrence.iterations_of_slot
        sizes.append(0 if value in seen else _nbytes(occurrence))
        seen.add(value)
    limit = max(sum(sizes), 1) / passes
    before = 0
    parts: dict[int, list[Occurrence]] = {}
    for occurrence, size in zip(chosen, sizes, strict=True):
        parts.setdefault(min(int(before / limit), passes - 1), []).append(occurrence)
        before += size
    return [wanted(plan, part) for part in parts.values() or ([],)]


def _nbytes(occurrence: Occurrence) -> int:
    tap = occurrence.tap
    return math.prod(tap.shape) * int(np.dtype(tap.dtype).itemsize)


def _enclosing(slot: Slot, stacking: set[Address]) -> Iterator[Address]:
    """Loops around the home of ``slot`` that stack its values, outermost first."""
    for end in range(1, len(slot.scope), 2):
        if slot.scope[:end] in stacking:
            yield slot.scope[:end]
