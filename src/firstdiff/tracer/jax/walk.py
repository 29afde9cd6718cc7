"""The interpreter behind reap and plant: runs a traced program again, taking values out and putting
values in.

One walk serves both, because the hard part, threading values through loops, branches and shards, is
the same; what is taken and what is put is data. Equations that neither concerns are bound
unchanged, so a walk that takes nothing is the very program it was given. The rules for loops,
branches and shards are in `rules`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias

from jax.extend.core import Jaxpr, JaxprEqn, Literal

from firstdiff.tracer.jax import compat
from firstdiff.tracer.jax.tap import tap_p

if TYPE_CHECKING:
    from jax.extend.core import ClosedJaxpr

    from firstdiff.tracer.jax.plan import Address, Slot
    from firstdiff.tracer.jax.replacement import Replacement

Taken: TypeAlias = dict[int, Any]
"""Values on their way out, by the number of their slot."""
Put: TypeAlias = dict["Address", "Replacement"]
"""Values on their way in, by the address of the tap."""
Send: TypeAlias = Callable[[int, tuple[Any, ...], Any], None]
"""Is given the number of a slot, the iterations of the scans around it, and the value; while
tracing."""
Rule: TypeAlias = Callable[["Walk", JaxprEqn, list[Any], "Address", Put], tuple[list[Any], Taken]]
"""Runs one equation whose inner programs are concerned; returns its results and what was taken
inside."""


@dataclass(frozen=True)
class Walk:
    """What to take out, and how to run."""

    slots: tuple[Slot, ...]
    """Values to take, numbered by their position."""
    rules: Mapping[str, Rule]
    """Rules by primitive name."""
    max_iterations: int | None = None
    """Iterations of a while loop that are kept; None keeps the last one."""
    cuts: Mapping[Address, Any] = field(default_factory=dict)
    """How a value put at a tap inside a `shard_map` is cut: its `PartitionSpec`, the axes that its
    stacked shards
    run over, or nothing when every shard gets all of it."""
    inline: bool = False
    """Run operation by operation: inner programs are entered whether anything is taken there or not."""
    kept: Mapping[Address, tuple[int, ...]] = field(default_factory=dict)
    """Iterations of a scan whose values are kept, where that is not all of them."""
    whole: frozenset[Slot] = frozenset()
    """Slots of which every iteration is kept in spite of that."""
    send: Send | None = None
    """Takes each value when it is computed, instead of its being returned; None inside while
    loops, where only the end tells which iteration is the last."""
    trips: tuple[Any, ...] = ()
    """The current iteration of every enclosing scan, outermost first, where values are sent."""

    def run(
        self,
        jaxpr: Jaxpr,
        constants: Sequence[Any],
        arguments: Sequence[Any],
        scope: Address = (),
        put: Put | None = None,
    ) -> tuple[list[Any], Taken]:
        """Results of ``jaxpr`` and the values taken in it and below."""
        put = put or {}
        values: dict[Any, Any] = dict(zip(jaxpr.constvars, constants, strict=True))
        values.update(zip(jaxpr.invars, arguments, strict=True))
        own: dict[Any, Any] = {}
        taken: Taken = {}
        here = [(number, slot.var) for number, slot in enumerate(self.slots) if slot.scope == scope]
        dead = _last_uses(jaxpr, {var for _, var in here if not isinstance(var, int)})
        due = self.due(here, jaxpr)
        self.sent({number: values[var] for number, var in due.pop(None, ())})

        def read(atom: Any) -> Any:
            return atom.val if isinstance(atom, Literal) else values[atom]

        for number, eqn in enumerate(jaxpr.eqns):
            operands = [read(atom) for atom in eqn.invars]
            results, inside = self.equation(eqn, operands, (*scope, number), put)
            taken.update(self.sent(inside))
            if eqn.primitive is tap_p and (*scope, number) in put:
                _replace(eqn.invars[0], results[0], values, own)
            values.update(zip(eqn.outvars, results, strict=True))
            self.sent({which: values[var] for which, var in due.get(number, ())})
            for var in dead.get(number, ()):
                del values[var]
        for number, var in here:
            if self.send is None and not isinstance(var, int):
                taken[number] = own[var] if var in own else read(var)
        return [read(atom) for atom in jaxpr.outvars], taken

    def due(
        self, here: Sequence[tuple[int, Any]], jaxpr: Jaxpr
    ) -> dict[int | None, list[tuple[int, Any]]]:
        """Which slots to send after which equation; None is the start. Empty where nothing is
        sent."""
        if self.send is None:
            return {}
        made = {var: number for number, eqn in enumerate(jaxpr.eqns) for var in eqn.outvars}
        found: dict[int | None, list[tuple[int, Any]]] = {}
        for number, var in here:
            if not isinstance(var, int):
                found.setdefault(made.get(var), []).append((number, var))
        return found

    def sent(self, taken: Taken) -> Taken:
        """What is left to return of ``taken`` after sending: nothing where values are sent."""
        if self.send is None:
            return taken
        for number, value in taken.items():
            self.send(number, self.trips, value)
        return {}

    def equation(
        self, eqn: JaxprEqn, operands: list[Any], address: Address, put: Put
    ) -> tuple[list[Any], Taken]:
        """Results of one equation, and what was taken inside it."""
        if eqn.primitive is tap_p:
            return [put[address].instead_of(operands[0]) if address in put else operands[0]], {}
        name = eqn.primitive.name
        rule = self.rules.get(name)
        if rule is not None and (self.inline or self.concerns(address, put)):
            with compat.in_context(eqn):
                return rule(self, eqn, operands, address, put)
        return compat.bind(eqn, operands), {}

    def concerns(self, address: Address, put: Put) -> bool:
        """Whether anything is taken or put at or below ``address``."""
        depth = len(address)
        return address in self._concerned or any(place[:depth] == address for place in put)

    @cached_property
    def _concerned(self) -> frozenset[Address]:
        """Every address at or below which something is taken."""
        places = [*(slot.scope for slot in self.slots), *self._counts]
        return frozenset(place[:end] for place in places for end in range(len(place) + 1))

    @cached_property
    def _counts(self) -> dict[Address, int]:
        return {
            (*slot.scope, slot.var): number
            for number, slot in enumerate(self.slots)
            if isinstance(slot.var, int)
        }

    def count_number(self, address: Address) -> int | None:
        """Number of the slot that takes the trip count of the while loop at ``address``."""
        return self._counts.get(address)

    def closed(
        self, closed: ClosedJaxpr, arguments: Sequence[Any], scope: Address, put: Put
    ) -> tuple[list[Any], Taken]:
        """`run` on a jaxpr that brings its constants."""
        return self.run(closed.jaxpr, closed.consts, arguments, scope, put)


def _replace(atom: Any, value: Any, values: dict[Any, Any], own: dict[Any, Any]) -> None:
    """Let what follows a tap in its own program see the planted value under the tapped name as well.

    A value goes into a module and stays in a local variable (`residual = x`): both are to be right, or one
    wrong residual connection would show twice. What the program had there before is kept in ``own``.
    """
    if not isinstance(atom, Literal):
        own.setdefault(atom, values[atom])
        values[atom] = value


def below(put: Put, address: Address) -> Put:
    """Those of ``put`` that belong at or below ``address``."""
    return {place: value for place, value in put.items() if place[: len(address)] == address}


def _last_uses(jaxpr: Jaxpr, kept: set[Any]) -> dict[int, list[Any]]:
    """Variables that no later equation reads, by the equation after which they can go."""
    kept = kept | {atom for atom in jaxpr.outvars if not isinstance(atom, Literal)}
    seen: set[Any] = set()
    dead: dict[int, list[Any]] = {}
    for number in reversed(range(len(jaxpr.eqns))):
        eqn = jaxpr.eqns[number]
        for atom in (*eqn.invars, *eqn.outvars):
            if isinstance(atom, Literal) or atom in seen or atom in kept:
                continue
            seen.add(atom)
            dead.setdefault(number, []).append(atom)
    return dead
