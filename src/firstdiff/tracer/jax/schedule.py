"""The order of execution, and final names: a plan unrolled with the facts of one run.

Call indices are given here and never while tracing, because JAX traces a body any number of times:
never, once for many calls, or twice for one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from firstdiff.tracer.jax.naming import PLACEHOLDER, filled, numbered, scan_places
from firstdiff.tracer.jax.plan import (
    Branches,
    Node,
    Plan,
    Scan,
    Shards,
    Slot,
    Tap,
    While,
    module_paths,
    taps,
)
from firstdiff.tracer.jax.repeats import Repeats
from firstdiff.traces.schema import Axis, Key

if TYPE_CHECKING:
    from firstdiff.tracer.jax.plan import Address

WHOLE_CALL = "call"
"""`TapKey.front_end` of the capture's own taps around the subject's call."""

Facts: TypeAlias = Mapping[Slot, np.ndarray]
"""Branch indices and trip counts by slot, with the slot's leading axes."""


@dataclass(frozen=True)
class Occurrence:
    """One activation: a tap in one iteration."""

    key: Key
    """Final name."""
    tap: Tap
    """The tap."""
    slot: Slot
    """Where the value is taken: the tap's own slot, or the one that handed it on to this
    iteration."""
    iterations: tuple[int, ...]
    """Places along the loop axes that lead the slot's value, outermost first."""
    place: tuple[int, ...]
    """Places along the loop axes that lead a value put at the tap."""
    axes: tuple[Axis, ...]
    """For the trace."""

    @property
    def index(self) -> tuple[int | slice, ...]:
        """Index of this activation in its slot's value: an iteration per loop, everything per
        `shard_map`."""
        return selector(self.slot, self.iterations)

    @property
    def iterations_of_slot(self) -> tuple[int, ...]:
        """Those of `iterations` that lead the slot's value: the slot and these name one value."""
        return tuple(entry for entry in self.index if isinstance(entry, int))


def selector(slot: Slot, iterations: tuple[int, ...]) -> tuple[int | slice, ...]:
    """Index into a value of ``slot`` that picks ``iterations``."""
    left = iter(iterations)
    return tuple(slice(None) if entry.shards else next(left) for entry in slot.stacked)


def schedule(plan: Plan, facts: Facts | None = None, *, step: int = 0) -> list[Occurrence]:
    """Every activation of a run, in execution order. Without ``facts``: of every branch, and one
    trip of every loop."""
    scheduler = _Scheduler(plan, facts, step, _returns_the_root(list(taps(plan.nodes))))
    return list(scheduler.visit(plan.nodes, _Here()))


def _returns_the_root(everything: list[Tap]) -> bool:
    """Whether the subject's call hands on what the root module returned, and nothing else.

    If so, the root module stands for the call. If not (the call scales the logits, takes the last position, or
    returns nothing), the call's own result is the model's output, and the root module goes by its class name.
    """
    results = [tap for tap in everything if tap.key.path == "" and tap.key.site == "output"]
    root = {tap.slot for tap in results if tap.key.front_end != WHOLE_CALL}
    call = {tap.slot for tap in results if tap.key.front_end == WHOLE_CALL}
    return bool(call) and call <= root


def _place(path: str, places: Mapping[str, int | None]) -> int | None:
    """Where the iteration goes in ``path``: as in the nearest module around it."""
    while path and path not in places:
        path = path.rpartition(".")[0]
    return places.get(path)


@dataclass(frozen=True)
class _Here:
    """Where in the unrolled loops the reader is."""

    scans: tuple[tuple[Address, int], ...] = ()
    """Every enclosing scan with its iteration, outermost first."""
    layers: tuple[Address, ...] = ()
    """Those of them whose iteration belongs in the path."""
    iterations: tuple[int, ...] = ()
    """Iterations along stacked axes."""
    trips: tuple[int, ...] = ()
    """Iterations of every loop, for telling calls apart."""
    axes: tuple[Axis, ...] = ()

    def inside(self, axis: Axis, iteration: int, *, stacked: bool) -> _Here:
        """One iteration further in."""
        return replace(
            self,
            iterations=(*self.iterations, iteration) if stacked else self.iterations,
            trips=(*self.trips, iteration),
            axes=(*self.axes, axis),
        )


class _Scheduler:
    def __init__(self, plan: Plan, facts: Facts | None, step: int, rooted: bool) -> None:
        self.carried = plan.carried
        self.facts, self.step, self.rooted = facts, step, rooted
        self.places: dict[Address, dict[str, int | None]] = {}
        self.calls: dict[tuple[str, str], int] = {}
        self.numbers: dict[object, int] = {}
        self.seen: set[Key] = set()
        self.repeats = Repeats()

    def visit(self, nodes: tuple[Node, ...], here: _Here) -> Iterator[Occurrence]:
        for node in nodes:
            match node:
                case Tap():
                    if not (self.rooted and node.key.front_end == WHOLE_CALL):
                        yield self.occurrence(node, here)
                case Scan():
                    yield from self.scan(node, here)
                case While():
                    yield from self.loop(node, here)
                case Branches():
                    yield from self.branches(node, here)
                case Shards():
                    yield from self.visit(node.children, here)

    def scan(self, node: Scan, here: _Here) -> Iterator[Occurrence]:
        if node.address not in self.places:
            found = scan_places(module_paths(node.children))
            self.places[node.address] = {
                path: _place(path, found) for path in {tap.key.path for tap in taps(node.children)}
            }
        order = range(node.length)
        for index in reversed(order) if node.reverse else order:
            inner = here.inside(Axis("scan", node.length, index), index, stacked=True)
            inner = replace(
                inner,
                scans=(*here.scans, (node.address, index)),
                layers=(*here.layers, node.address) if node.layered else here.layers,
            )
            yield from self.visit(node.children, inner)

    def loop(self, node: While, here: _Here) -> Iterator[Occurrence]:
        count = self.fact(node.count, here, 1 if node.kept is None else node.kept)
        last = range(max(count - 1, 0), count)
        for trip in last if node.kept is None else range(min(count, node.kept)):
            axis = Axis("while", count, trip)
            yield from self.visit(
                node.children, here.inside(axis, trip, stacked=node.kept is not None)
            )

    def branches(self, node: Branches, here: _Here) -> Iterator[Occurrence]:
        size = len(node.children)
        if isinstance(node.index, int):
            chosen = [node.index]
        elif self.facts is None:
            chosen = list(range(size))
        else:
            chosen = [self.fact(node.index, here, 0)]
        for which in chosen:
            inner = replace(here, axes=(*here.axes, Axis("cond", size, which)))
            yield from self.visit(node.children[which], inner)

    def fact(self, slot: Slot, here: _Here, unknown: int) -> int:
        if self.facts is None:
            return unknown
        return int(self.facts[slot][selector(slot, here.iterations)].reshape(-1)[0])

    def occurrence(self, tap: Tap, here: _Here) -> Occurrence:
        key = tap.key
        path = self.path(tap, here)
        called = key.method == "__call__" and key.front_end != WHOLE_CALL
        if called and not path and not self.rooted:
            path = key.class_name or "root"
        call = (path, key.method, key.serial, tap.scope, here.trips)
        if call not in self.numbers:
            self.numbers[call] = self.calls.get((path, key.method), 0)
            self.calls[path, key.method] = self.numbers[call] + 1
        named = Key(path, key.site, key.leaf, key.method, self.numbers[call], self.step)
        while named in self.seen:
            named = replace(named, call=named.call + 1)
        self.seen.add(named)
        shards = (entry for entry in tap.slot.stacked if entry.shards)
        axes = (
            *here.axes,
            *(Axis("shards", entry.shards) for entry in shards),
            *(Axis("vmap", size) for size in tap.batch),
        )
        slot, iterations = self.source(tap.slot, here.iterations)
        return Occurrence(named, tap, slot, iterations, here.iterations, axes)

    def source(self, slot: Slot, iterations: tuple[int, ...]) -> tuple[Slot, tuple[int, ...]]:
        """The slot that handed on a carried value, and its place there."""
        while slot in self.carried:
            carry = self.carried[slot]
            outer = sum(not entry.shards for entry in slot.stacked) - 1
            now = iterations[outer]
            if now == (carry.length - 1 if carry.reverse else 0):
                slot, iterations = carry.initial, iterations[:outer]
            else:
                before = now + 1 if carry.reverse else now - 1
                slot, iterations = carry.result, (*iterations[:outer], before)
        return slot, iterations

    def path(self, tap: Tap, here: _Here) -> str:
        path = tap.key.path
        if PLACEHOLDER in path:
            return filled(path, [iteration for _, iteration in here.scans])
        places = [
            (place, iteration)
            for address, iteration in here.scans
            if address in here.layers and (place := self.places[address].get(path)) is not None
        ]
        places += self.repeats.places(tap.key.repeats, path, tap.scope, here.trips)
        return numbered(path, places)
