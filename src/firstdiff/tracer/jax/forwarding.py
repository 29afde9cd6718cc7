"""Results of a traced program that are its arguments, unchanged.

NNX hands every array of a module out of `nnx.jit`, `nnx.remat` and `nnx.scan` again, changed or not. What was not
changed is no output of a step: weights would be held twice, and compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal

from firstdiff.tracer.jax import compat
from firstdiff.tracer.jax.tap import tap_p

if TYPE_CHECKING:
    from firstdiff.tracer.jax.reap import Program
    from firstdiff.tracer.jax.state import Returned


def without_unchanged(program: Program) -> Program:
    """``program``, whose function gives a `Returned`, without the state that is what it was."""
    numbered: Returned = program.rebuild(range(len(program.jaxpr.jaxpr.outvars)))
    if numbered.other:
        return program
    origins = forwarded(program.jaxpr.jaxpr)
    dropped = {number for place, number in numbered.state.items() if origins[number] == place}
    if not dropped:
        return program
    kept = [n for n in range(len(origins)) if n not in dropped]

    def rebuild(values: Sequence[Any]) -> Returned:
        every: list[Any] = [None] * len(origins)
        for number, value in zip(kept, values, strict=True):
            every[number] = value
        done: Returned = program.rebuild(every)
        left = {place: value for place, value in done.state.items() if value is not None}
        return done._replace(state=left)

    jaxpr = program.jaxpr.jaxpr
    slim = compat.replaced(jaxpr, outvars=[jaxpr.outvars[number] for number in kept])
    return replace(program, jaxpr=ClosedJaxpr(slim, program.jaxpr.consts), rebuild=rebuild)


def forwarded(jaxpr: Jaxpr) -> list[int | None]:
    """For each result of ``jaxpr`` the number of the argument that it is; None where it is another value."""
    known = {var: number for number, var in enumerate(jaxpr.invars)}

    def number(atom: Any) -> int | None:
        return None if isinstance(atom, Literal) else known.get(atom)

    for eqn in jaxpr.eqns:
        for out, operand in zip(eqn.outvars, _passed(eqn), strict=True):
            found = None if operand is None else number(eqn.invars[operand])
            if found is not None:
                known[out] = found
    return [number(atom) for atom in jaxpr.outvars]


def _passed(eqn: JaxprEqn) -> Sequence[int | None]:
    """For each result of ``eqn`` the operand that it is."""
    name = eqn.primitive.name
    if eqn.primitive is tap_p:
        return [0]
    if name in compat.JIT | compat.INLINED:
        closed = compat.inner_jaxpr(eqn)
        return forwarded(closed.jaxpr) if closed else [None] * len(eqn.outvars)
    if name == "scan":
        return _through_scan(eqn)
    if name == "cond":
        branches = [forwarded(branch.jaxpr) for branch in eqn.params["branches"]]
        same = [found[0] if len(set(found)) == 1 else None for found in zip(*branches, strict=True)]
        return [None if found is None else found + 1 for found in same]
    return [None] * len(eqn.outvars)


def _through_scan(eqn: JaxprEqn) -> Sequence[int | None]:
    """A carry that every iteration hands on as it came, and slices that are stacked again."""
    first, carries = eqn.params["num_consts"], eqn.params["num_carry"]
    found: list[int | None] = []
    for place, origin in enumerate(forwarded(eqn.params["jaxpr"].jaxpr)):
        if place < carries:
            found.append(origin if origin == first + place else None)
        else:
            sliced = origin is not None and origin >= first + carries
            found.append(origin if sliced else None)
    return found
