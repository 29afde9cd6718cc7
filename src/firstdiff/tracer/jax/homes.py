"""Where values are at home in the end: outside of a `shard_map` that returns them, and in the carry of
a scan that hands them on."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from jax.extend.core import JaxprEqn, Literal

from firstdiff.tracer.jax.plan import Address, Branches, Carried, Node, Slot, Tap

if TYPE_CHECKING:
    from firstdiff.tracer.jax.scope import Scope


class Homes:
    """Collected while a program is read; asked when all of it is."""

    def __init__(self) -> None:
        self._moves: dict[Slot, tuple[Slot, Any]] = {}
        self._carried: dict[Slot, Carried] = {}

    def move(self, home: Slot, address: Address, outside: Slot, spec: Any) -> None:
        """What is at ``home`` in the `shard_map` at ``address`` is whole at ``outside``, cut by
        ``spec``."""
        if home.scope[: len(address)] == address:
            self._moves[home] = (outside, spec)

    def hand_on(self, eqn: JaxprEqn, scope: Scope, inner: Scope) -> None:
        """Note where each carry of a scan comes from, so that it is not taken out a second time."""
        params = eqn.params
        first = params["num_consts"]
        body = params["jaxpr"].jaxpr
        for index in range(params["num_carry"]):
            initial, result = eqn.invars[first + index], body.outvars[index]
            if isinstance(initial, Literal) or isinstance(result, Literal):
                continue
            received, handed = inner.home(body.invars[first + index]), inner.home(result)
            if received != handed:
                self._carried[received] = Carried(
                    scope.home(initial), handed, params["length"], params["reverse"]
                )

    def carried(self) -> dict[Slot, Carried]:
        """Carries between final homes."""
        return {
            slot: replace(
                carry, initial=self._final(carry.initial)[0], result=self._final(carry.result)[0]
            )
            for slot, carry in self._carried.items()
        }

    def moved(self, nodes: tuple[Node, ...]) -> tuple[Node, ...]:
        """``nodes``, where a result of a `shard_map` is at home outside it: there it is whole."""
        return tuple(self._moved(node) for node in nodes)

    def _moved(self, node: Node) -> Node:
        if isinstance(node, Tap):
            slot, spec = self._final(node.slot)
            return replace(node, slot=slot, spec=node.spec if spec is None else spec)
        if isinstance(node, Branches):
            return replace(node, children=tuple(self.moved(b) for b in node.children))
        return replace(node, children=self.moved(node.children))

    def _final(self, slot: Slot) -> tuple[Slot, Any]:
        """Outermost home of ``slot``, and how it is cut where that is outside a `shard_map`."""
        spec = None
        while slot in self._moves:
            slot, spec = self._moves[slot]
        return slot, spec
