"""How values get through each transformation, for `walk`: calls and branches, and the table of all
rules.

A new transformation is one function and one row of the table.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax

from firstdiff.tracer.jax import compat
from firstdiff.tracer.jax.loops import scan_rule, while_rule
from firstdiff.tracer.jax.shards import shard_map_rule
from firstdiff.tracer.jax.walk import Put, Rule, Taken, Walk, below

if TYPE_CHECKING:
    from jax.extend.core import JaxprEqn

    from firstdiff.tracer.jax.plan import Address


def _inlined(
    walk: Walk, eqn: JaxprEqn, operands: list[Any], address: Address, put: Put
) -> tuple[list[Any], Taken]:
    """remat, custom_jvp, custom_vjp: forward, they are the program that they hold."""
    closed = compat.inner_jaxpr(eqn)
    if closed is None:
        return compat.bind(eqn, operands), {}
    return walk.closed(closed, operands, (*address, 0), put)


def _jit(
    walk: Walk, eqn: JaxprEqn, operands: list[Any], address: Address, put: Put
) -> tuple[list[Any], Taken]:
    """A `jit` again, with more results, under the same name and shardings."""
    if walk.inline:
        return _inlined(walk, eqn, operands, address, put)
    closed = eqn.params["jaxpr"]

    def inner(arguments: list[Any], put: Put) -> tuple[list[Any], Taken]:
        return walk.closed(closed, arguments, (*address, 0), put)

    inner.__name__ = eqn.params["name"]
    results, taken = compat.jit_like(eqn, inner)(operands, below(put, address))
    return results, taken


def _cond(
    walk: Walk, eqn: JaxprEqn, operands: list[Any], address: Address, put: Put
) -> tuple[list[Any], Taken]:
    """Each branch returns its own values and zeros for those of the others."""
    index, rest = operands[0], operands[1:]
    branches = eqn.params["branches"]

    def run(which: int, arguments: list[Any]) -> tuple[list[Any], Taken]:
        return walk.closed(branches[which], arguments, (*address, which), put)

    shapes: Taken = {}
    for which in range(len(branches)):
        shapes.update(jax.eval_shape(lambda *a, which=which: run(which, list(a))[1], *rest))

    def branch(which: int) -> Any:
        def taken_branch(*arguments: Any) -> tuple[list[Any], Taken]:
            results, taken = run(which, list(arguments))
            return results, {
                number: compat.like(taken[number], aval)
                if number in taken
                else compat.zeros_of(aval)
                for number, aval in shapes.items()
            }

        return taken_branch

    choices = [branch(which) for which in range(len(branches))]
    results, taken = jax.lax.switch(index, choices, *rest)
    return list(results), taken


RULES: dict[str, Rule] = {
    **dict.fromkeys(compat.INLINED, _inlined),
    **dict.fromkeys(compat.JIT, _jit),
    "scan": scan_rule,
    "while": while_rule,
    "cond": _cond,
    "shard_map": shard_map_rule,
}
"""Rules by primitive name."""
