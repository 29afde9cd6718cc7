"""Whether a loop runs over stacked parameters: a stack of layers, rather than time steps through
shared weights.

The iteration of the first kind is part of the module path, as in PyTorch's module lists; that of
the second kind is a call index. Told apart by where the values of the program come from.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias
from typing import Literal as Choice

from jax.extend.core import Jaxpr, JaxprEqn, Literal

from firstdiff.tracer.jax import compat

Origin: TypeAlias = Choice["constant", "parameter", "input"]
"""What a value depends on: on nothing, on parameters alone, or on inputs as well."""

_INDEXING = frozenset({"dynamic_slice", "gather"})


def combined(origins: Sequence[Origin]) -> Origin:
    """Origin of a value that is computed from values of these ``origins``."""
    if "input" in origins:
        return "input"
    return "parameter" if "parameter" in origins else "constant"


def is_layered(scan: JaxprEqn, origins: Sequence[Origin]) -> bool:
    """Whether ``scan``, whose operands come from ``origins``, gives each iteration parameters of
    its own.

    They are sliced by the scan, or the body gets the whole stack and picks its own layer out of it.
    """
    params = scan.params
    constants, sliced = params["num_consts"], params["num_consts"] + params["num_carry"]
    if "parameter" in origins[sliced:]:
        return True
    body = params["jaxpr"].jaxpr
    whole = {
        var
        for var, origin in zip(body.invars[:constants], origins[:constants], strict=True)
        if origin == "parameter" and _shape(var)[:1] == (params["length"],)
    }
    return bool(whole) and _indexed(body, whole)


def _shape(var: Any) -> tuple[int, ...]:
    return tuple(getattr(var.aval, "shape", ()))


def _indexed(jaxpr: Jaxpr, whole: set[Any]) -> bool:
    for eqn in jaxpr.eqns:
        hit = [var for var in eqn.invars if not isinstance(var, Literal) and var in whole]
        if hit and eqn.primitive.name in _INDEXING and eqn.invars[0] in hit:
            return True
        closed = compat.inner_jaxpr(eqn) if eqn.primitive.name in compat.JIT else None
        if hit and closed is not None:
            pairs = zip(closed.jaxpr.invars, eqn.invars, strict=True)
            if _indexed(closed.jaxpr, {var for var, atom in pairs if atom in hit}):
                return True
    return False
