"""Taps that nobody placed: the results of the equations of a traced program.

Apart from `survey`, which reads every program, because only a capture of all operations wants them. A value is taken
by its variable, so no equation is added and the program stays what it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jax.extend.core import Literal

from firstdiff.tracer.jax import compat
from firstdiff.tracer.jax.inside import INSIDE
from firstdiff.tracer.jax.layered import combined
from firstdiff.tracer.jax.plan import Tap
from firstdiff.tracer.jax.scope import Scope, stacked
from firstdiff.tracer.jax.tap import TapKey, new_serial
from firstdiff.traces.schema import OP_MARK

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from jax.extend.core import JaxprEqn

_REARRANGING = frozenset(
    {"transpose", "reshape", "broadcast_in_dim", "squeeze", "slice", "dynamic_slice", "gather"}
) | frozenset({"convert_element_type", "copy", "copy_p", "concatenate", "split"})
_LOOPS = frozenset({"scan", "while", "cond", "shard_map"})


def is_transparent(eqn: JaxprEqn) -> bool:
    """Whether the equations inside ``eqn`` are seen instead of its own results."""
    name = eqn.primitive.name
    if name in compat.JIT | compat.INLINED:
        return compat.inner_jaxpr(eqn) is not None
    return name in _LOOPS


def equation_taps(
    eqn: JaxprEqn, scope: Scope, number: int, module_of: Callable[[str], str]
) -> Iterator[Tap]:
    """The results of ``eqn``, the ``number``-th of its program, as taps of the module that it was traced in.

    A parameter that is merely rearranged is left out: it is no activation.
    """
    origin = combined([scope.origin(atom) for atom in eqn.invars])
    if origin == "parameter" and eqn.primitive.name in _REARRANGING:
        return
    function, source = place_of(eqn, scope)
    path = module_of(f"{scope.stack}/{compat.name_stack(eqn)}")
    serial = new_serial()
    for index, var in enumerate(eqn.outvars):
        if not _is_recordable(var):
            continue
        aval: Any = var.aval
        yield Tap(
            key=TapKey(
                path,
                "output",
                str(index) if len(eqn.outvars) > 1 else "",
                f"jax{OP_MARK}{eqn.primitive.name}",
                function,
                front_end=INSIDE,
                serial=serial,
                plantable=False,
            ),
            address=(*scope.address, number),
            slot=scope.home(var),
            scope=scope.address,
            source=source,
            stacked=stacked(scope.frames, var),
            shape=tuple(aval.shape),
            dtype=aval.dtype,
        )


def place_of(eqn: JaxprEqn, scope: Scope) -> tuple[str, str]:
    """Function and `file:line` of the user's code that ``eqn`` stands for.

    JAX traces a jitted helper of its own once for several callers, so what it holds belongs to the line that calls
    it; a helper of the user's has lines of its own.
    """
    return scope.place if scope.place[1] else compat.source_place(eqn)


def place_inside(eqn: JaxprEqn, scope: Scope) -> tuple[str, str]:
    """What `Scope.place` is in a program that ``eqn`` holds."""
    if eqn.primitive.name not in compat.JIT:
        return scope.place
    name = str(eqn.params.get("name", ""))
    own = any(compat.source_place(one)[0].rpartition(".")[2] == name for one in _first(eqn))
    return ("", "") if own and not scope.place[1] else place_of(eqn, scope)


def _first(eqn: JaxprEqn) -> tuple[JaxprEqn, ...]:
    closed = compat.inner_jaxpr(eqn)
    return tuple(closed.jaxpr.eqns) if closed is not None else ()


def _is_recordable(var: Any) -> bool:
    """Whether ``var`` is an array of numbers that the program keeps under a name."""
    dtype = getattr(var.aval, "dtype", None)
    if isinstance(var, Literal) or type(var).__name__ == "DropVar" or dtype is None:
        return False
    return dtype != jax.dtypes.float0 and not jnp.issubdtype(dtype, jax.dtypes.extended)
