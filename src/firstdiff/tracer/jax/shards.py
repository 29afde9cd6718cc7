"""How values get through `shard_map`: out as their shards, in as shards or as the whole tensor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
from jax.sharding import PartitionSpec as Spec

from firstdiff.tracer.jax import compat
from firstdiff.tracer.jax.walk import Put, Taken, Walk, below

if TYPE_CHECKING:
    from jax.extend.core import JaxprEqn

    from firstdiff.tracer.jax.plan import Address, Slot


def shard_map_rule(
    walk: Walk, eqn: JaxprEqn, operands: list[Any], address: Address, put: Put
) -> tuple[list[Any], Taken]:
    """Taken values are stacked over the manual axes that they vary over; what all shards share
    leaves once.

    A put value is the whole tensor where the program says how it is cut (it is an argument or a
    result of the `shard_map`), and the stacked shards elsewhere.
    """
    params = eqn.params
    manual, checked = compat.manual_axes(eqn), params["check_vma"]
    axes = {
        number: _axes(slot, manual)
        for number, slot in enumerate(walk.slots)
        if slot.scope[: len(address)] == address
    }
    put = below(put, address)

    def body(arguments: list[Any], put: Put) -> tuple[list[Any], Taken]:
        local = {place: given.local(walk.cuts.get(place)) for place, given in put.items()}
        results, taken = walk.run(params["jaxpr"], (), arguments, (*address, 0), local)
        return results, {n: _stacked(value, axes[n], checked) for n, value in taken.items()}

    mapped = jax.shard_map(
        body,
        mesh=params["mesh"],
        in_specs=(
            list(params["in_specs"]),
            {place: given.specs(walk.cuts.get(place)) for place, given in put.items()},
        ),
        out_specs=(
            list(params["out_specs"]),
            {n: _spec(names) for n, names in axes.items()},
        ),
        axis_names=set(manual),
        check_vma=checked,
    )
    results, taken = mapped(operands, put)
    return list(results), taken


def _axes(slot: Slot, manual: tuple[str, ...]) -> tuple[str, ...]:
    """The axes that the shards of ``slot`` run over in the `shard_map` that makes ``manual``
    manual."""
    for entry in slot.stacked:
        if entry.axes and set(entry.axes) <= set(manual):
            return entry.axes
    return ()


def _stacked(value: Any, axes: tuple[str, ...], checked: bool) -> Any:
    if not axes:
        return value
    return compat.to_varying(value[None], axes) if checked else value[None]


def _spec(axes: tuple[str, ...] | None) -> Any:
    """The leading axis over ``axes``; the same everywhere for none."""
    spec: Any = Spec
    return spec(axes) if axes else spec()
