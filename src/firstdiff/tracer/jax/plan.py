"""What is tapped in a traced program, as a tree that mirrors its loops and branches.

Apart from `survey`, which makes a plan, and from `walk` and `schedule`, which follow it. A plan is
static: how often a while loop ran and which branch was taken are facts of one run, recorded beside
the values.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from firstdiff.tracer.jax.tap import TapKey

Address: TypeAlias = tuple[int, ...]
"""Place of a sub-program: (equation, which of its jaxprs) for every level. An equation's own ends
in its number."""


@dataclass(frozen=True)
class Stacked:
    """A leading axis that a value gets on its way out of its program, outermost first."""

    shards: int = 0
    """0: one entry per iteration of a loop. Otherwise the number of shards of a `shard_map`."""
    axes: tuple[str, ...] = ()
    """Mesh axes that the shards run over, outermost first."""


@dataclass(frozen=True)
class Slot:
    """One value to take out: a variable at home in one sub-program."""

    scope: Address
    """The sub-program."""
    var: Any
    """The jaxpr variable there; an equation's number for the trip count of that while loop."""
    stacked: tuple[Stacked, ...] = ()
    """Axes that lead the value when it is out."""


@dataclass(frozen=True)
class Tap:
    """One tap equation."""

    key: TapKey
    """Its static name."""
    address: Address
    """Place of the equation."""
    slot: Slot
    """Where its value is at home: an enclosing program, where the value came from there."""
    scope: Address = ()
    """The sub-program that the tapped call runs in."""
    batch: tuple[int, ...] = ()
    """Sizes of the axes that `vmap` added, outermost first: they lead the recorded value."""
    places: tuple[int, ...] = ()
    """Where those axes are in the program's own value."""
    source: str = ""
    """`file:line` of the user's code."""
    stacked: tuple[Stacked, ...] = ()
    """Axes that lead a value planted at this place."""
    spec: Any = None
    """Partition spec of the planted value inside a `shard_map`, when it is an argument or a result
    of it."""
    shape: tuple[int, ...] = ()
    """Shape as it is recorded, without the stacked axes; per shard inside a `shard_map`."""
    dtype: Any = None
    """JAX dtype."""

    def turned(self, value: np.ndarray, shards: int = 0) -> np.ndarray:
        """A view of the program's ``value`` with the axes of `vmap` in front, behind ``shards`` axes."""
        if self.places == tuple(range(len(self.places))):
            return value
        return np.moveaxis(value, *self._moves(shards))

    def turned_back(self, value: np.ndarray, shards: int = 0) -> np.ndarray:
        """The inverse of `turned`: a recorded value as the program has it."""
        source, target = self._moves(shards)
        return np.moveaxis(value, target, source)

    def _moves(self, shards: int) -> tuple[list[int], list[int]]:
        places = [shards + place for place in self.places]
        return places, [shards + place for place in range(len(places))]


@dataclass(frozen=True)
class Carried:
    """A loop's carry as its body receives it: the very value that the iteration before returned."""

    initial: Slot
    """Home of what the first iteration receives."""
    result: Slot
    """Home, in the body, of what an iteration hands on."""
    length: int
    """Iterations."""
    reverse: bool
    """Whether the last place runs first."""


@dataclass(frozen=True)
class Scan:
    """A loop of known length."""

    address: Address
    length: int
    reverse: bool
    layered: bool
    """Whether it runs over stacked parameters: then the iteration is part of the path, otherwise of
    the call index."""
    children: tuple[Node, ...]


@dataclass(frozen=True)
class While:
    """A loop of unknown length: its last iteration, or its first ``kept`` ones."""

    address: Address
    count: Slot
    kept: int | None
    children: tuple[Node, ...]


@dataclass(frozen=True)
class Branches:
    """A `cond` or `switch`."""

    address: Address
    index: Slot | int
    """Which branch is taken; a number when the program has it as a constant."""
    children: tuple[tuple[Node, ...], ...]


@dataclass(frozen=True)
class Shards:
    """The body of a `shard_map`."""

    address: Address
    children: tuple[Node, ...]


Node: TypeAlias = Tap | Scan | While | Branches | Shards


@dataclass(frozen=True)
class Plan:
    """All taps of one program, in program order."""

    nodes: tuple[Node, ...]
    notes: tuple[str, ...] = ()
    """What cannot be recorded, and why."""
    facts: frozenset[Slot] = field(default_factory=frozenset)
    """Slots that say which branch was taken and how often a loop ran."""
    carried: Mapping[Slot, Carried] = field(default_factory=dict)
    """Slots that need not be taken, because their values are other slots'."""


def taps(nodes: tuple[Node, ...]) -> Iterator[Tap]:
    """Every tap below ``nodes``, in program order."""
    for node in nodes:
        if isinstance(node, Tap):
            yield node
        elif isinstance(node, Branches):
            for branch in node.children:
                yield from taps(branch)
        else:
            yield from taps(node.children)


def module_paths(nodes: tuple[Node, ...]) -> Iterator[str]:
    """Paths of the taps below ``nodes`` that stand for modules, in program order: they name places."""
    return (tap.key.path for tap in taps(nodes) if tap.key.level == "module")


def loops(nodes: tuple[Node, ...]) -> Iterator[Scan | While]:
    """Every loop below ``nodes``, outer ones before those inside."""
    for node in nodes:
        if isinstance(node, Tap):
            continue
        if isinstance(node, Scan | While):
            yield node
        inner = node.children if isinstance(node, Branches) else (node.children,)
        for children in inner:
            yield from loops(children)


def has_shards(nodes: tuple[Node, ...]) -> bool:
    """Whether a `shard_map` is among ``nodes`` or below."""
    for node in nodes:
        if isinstance(node, Tap):
            continue
        inner = node.children if isinstance(node, Branches) else (node.children,)
        if isinstance(node, Shards) or any(map(has_shards, inner)):
            return True
    return False
