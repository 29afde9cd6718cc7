"""How values get through loops: stacked over the iterations of a scan, carried through a while
loop."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias

import jax
import jax.numpy as jnp

from firstdiff.tracer.jax import compat
from firstdiff.tracer.jax.walk import Put, Taken, Walk, below

if TYPE_CHECKING:
    from jax.extend.core import JaxprEqn

    from firstdiff.tracer.jax.plan import Address


_Each: TypeAlias = tuple[list[Any], dict["Address", Any], Any, Any]
"""What one iteration of a scan receives: slices, which put values it gets, its number, its row in the buffers."""


def scan_rule(
    walk: Walk, eqn: JaxprEqn, operands: list[Any], address: Address, put: Put
) -> tuple[list[Any], Taken]:
    """Taken values are stacked over the iterations, put values picked by iteration.

    Where a few iterations are wanted, their values ride in the carry, in a buffer of that many rows
    and one for all others: what is not wanted is not held.
    """
    params = eqn.params
    first, second = params["num_consts"], params["num_consts"] + params["num_carry"]
    constants, carry, sliced = operands[:first], operands[first:second], operands[second:]
    kept, split = walk.kept.get(address), params["num_carry"]
    put = below(put, address)

    def iterate(carry: list[Any], each: _Each) -> tuple[list[Any], Taken]:
        inner = replace(walk, trips=(*walk.trips, each[2])) if walk.send else walk
        arguments = [*constants, *carry, *each[0]]
        now = {place: put[place].with_rows(rows) for place, rows in each[1].items()}
        return inner.closed(params["jaxpr"], arguments, (*address, 0), now)

    def body(state: tuple[list[Any], Taken], each: _Each) -> tuple[tuple[list[Any], Taken], Any]:
        carry, buffers = state
        results, taken = iterate(carry, each)
        filled = {
            number: jax.lax.dynamic_update_index_in_dim(buffer, taken.pop(number), each[3], 0)
            for number, buffer in buffers.items()
        }
        return (results[:split], filled), (results[split:], taken)

    rows = {place: given.rows for place, given in put.items()}
    each = (sliced, rows, *_counters(walk, params["length"], kept))
    blank: Taken = {}
    if kept is not None:
        one = jax.eval_shape(lambda e: jax.tree_util.tree_map(lambda a: a[0], e), each)
        shapes = jax.eval_shape(lambda c, e: iterate(c, e)[1], carry, one)
        blank = {
            number: _blank(shape, len(kept) + 1)
            for number, shape in shapes.items()
            if walk.slots[number] not in walk.whole
        }
    (final, buffers), (stacked, taken) = jax.lax.scan(
        body,
        (carry, blank),
        each,
        length=params["length"],
        reverse=params["reverse"],
        unroll=params["unroll"],
    )
    chosen = {number: buffer[:-1] for number, buffer in buffers.items()}
    return [*final, *stacked], {**taken, **chosen}


def _counters(walk: Walk, length: int, kept: tuple[int, ...] | None) -> tuple[Any, Any]:
    """Per iteration: its number, where values are sent; its row in a buffer of the ``kept`` ones."""
    number = jnp.arange(length, dtype=jnp.int32) if walk.send else None
    if kept is None:
        return number, None
    rows = {iteration: row for row, iteration in enumerate(kept)}
    return number, jnp.asarray([rows.get(i, len(kept)) for i in range(length)], jnp.int32)


def while_rule(
    walk: Walk, eqn: JaxprEqn, operands: list[Any], address: Address, put: Put
) -> tuple[list[Any], Taken]:
    """Taken values ride in the carry: those of the last iteration, or a buffer of the first ones, which are sent
    instead where values are sent. Trips are counted."""
    params = eqn.params
    first, second = params["cond_nconsts"], params["cond_nconsts"] + params["body_nconsts"]
    asked, constants, carry = operands[:first], operands[first:second], operands[second:]
    kept, quiet = walk.max_iterations, replace(walk, send=None)
    put = below(put, address)

    def iterate(carry: list[Any], trip: Any) -> tuple[list[Any], Taken]:
        now = {place: given.at_trip(trip) for place, given in put.items()}
        arguments = [*constants, *carry]
        inner = quiet if kept is None else _sending_first(walk, trip, kept)
        return inner.closed(params["body_jaxpr"], arguments, (*address, 0), now)

    def body(state: tuple[list[Any], Taken, Any]) -> tuple[list[Any], Taken, Any]:
        carry, before, trip = state
        results, taken = iterate(carry, trip)
        if kept is not None:
            taken = {number: _store(before[number], taken[number], trip, kept) for number in taken}
        return results, taken, trip + 1

    def condition(state: tuple[list[Any], Taken, Any]) -> Any:
        untapped = replace(quiet, slots=())
        arguments = [*asked, *state[0]]
        return untapped.closed(params["cond_jaxpr"], arguments, (*address, 1), {})[0][0]

    number = walk.count_number(address)
    start = jnp.int32(0)
    if number is not None:
        axes = (axis for axis_of in walk.slots[number].stacked for axis in axis_of.axes)
        start = compat.to_varying(start, axes)
    shapes = jax.eval_shape(lambda carry: iterate(carry, start)[1], carry)
    blank = {number: _blank(shape, kept) for number, shape in shapes.items()}
    results, taken, trips = jax.lax.while_loop(condition, body, (carry, blank, start))
    return list(results), taken if number is None else {**taken, number: trips}


def _sending_first(walk: Walk, trip: Any, kept: int) -> Walk:
    """``walk`` inside iteration ``trip``: it sends that of the first ``kept`` ones."""
    send = walk.send
    if send is None:
        return walk

    def send_early(number: int, trips: tuple[Any, ...], value: Any) -> None:
        def now(value: Any, *trips: Any) -> None:
            send(number, trips, value)

        jax.lax.cond(trip < kept, now, lambda *_later: None, value, *trips)

    return replace(walk, send=send_early, trips=(*walk.trips, trip))


def _blank(aval: Any, kept: int | None) -> Any:
    zeros = compat.zeros_of(aval)
    return zeros if kept is None else jnp.stack([zeros] * kept)


def _store(buffer: Any, value: Any, trip: Any, kept: int) -> Any:
    """``buffer`` with ``value`` at ``trip``; iterations after the last that is kept change
    nothing."""
    stored = jax.lax.dynamic_update_index_in_dim(buffer, value, jnp.minimum(trip, kept - 1), 0)
    return jnp.where(trip < kept, stored, buffer)
