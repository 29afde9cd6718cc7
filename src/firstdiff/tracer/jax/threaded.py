"""Observing taps put into the program: what comes after one reads the tap, not the value that it observed.

Values of plain functions are only looked at, so a program that was traced with them goes past their taps. To plant a
value there, everything in the same program that reads the observed variable afterwards must read the tap instead;
then it is a tap like any other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from firstdiff.tracer.jax import compat
from firstdiff.tracer.jax.tap import tap_p

if TYPE_CHECKING:
    from jax.extend.core import JaxprEqn


def threaded(program: ClosedJaxpr) -> ClosedJaxpr:
    """``program`` with every observing tap read by what follows it. Equations keep their numbers."""
    return ClosedJaxpr(_threaded(program.jaxpr), program.consts)


def _threaded(jaxpr: Jaxpr) -> Jaxpr:
    now: dict[Any, Any] = {}
    eqns = []
    for eqn in jaxpr.eqns:
        operands = [_latest(atom, now) for atom in eqn.invars]
        eqns.append(compat.replaced(_with_inner(eqn), invars=operands))
        observed = eqn.invars[0] if eqn.primitive is tap_p else None
        if (
            observed is not None
            and not isinstance(observed, Literal)
            and eqn.params["key"].observed
        ):
            now[observed] = eqn.outvars[0]
    return compat.replaced(jaxpr, eqns=eqns, outvars=[_latest(atom, now) for atom in jaxpr.outvars])


def _latest(atom: Any, now: dict[Any, Any]) -> Any:
    return atom if isinstance(atom, Literal) else now.get(atom, atom)


def _with_inner(eqn: JaxprEqn) -> JaxprEqn:
    if not any(True for _ in compat.jaxprs_of(eqn)):
        return eqn
    return compat.replaced(eqn, params={name: _inner(p) for name, p in eqn.params.items()})


def _inner(param: Any) -> Any:
    """``param`` with the programs in it threaded."""
    if isinstance(param, ClosedJaxpr):
        return threaded(param)
    if isinstance(param, Jaxpr):
        return _threaded(param)
    if isinstance(param, tuple | list) and any(isinstance(p, ClosedJaxpr | Jaxpr) for p in param):
        return type(param)(_inner(item) for item in param)
    return param
