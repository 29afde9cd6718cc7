"""Every private or unstable corner of JAX that firstdiff touches. Apart, so that a new JAX breaks
one file.

Checked with jax 0.9.2 and 0.10.2. What is here moved between releases: the shape of
`get_bind_params`, the names of manual axes in a `shard_map` and of a value's varying ones, where
user contexts and source information live.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import jax
import jax.numpy as jnp
from jax._src import core, sharding_impls, source_info_util
from jax.experimental import layout
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn
from jax.sharding import AxisType

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

Program = TypeVar("Program", Jaxpr, JaxprEqn)

UNSPECIFIED: Any = cast("Any", sharding_impls).UNSPECIFIED
"""What `jit` stores for an operand whose sharding is left to the compiler."""

ANY_LAYOUT: Any = cast("Any", layout).Format(cast("Any", layout).Layout.AUTO)
"""For `out_shardings`: the device leaves an output in whatever order of axes it has it, uncopied."""

JIT = frozenset({"jit", "pjit"})
"""Names of the primitive that `jax.jit` binds."""
INLINED = frozenset({"remat2", "remat", "checkpoint", "closed_call", "core_call"}) | frozenset(
    {"custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr", "custom_vmap_call"}
)
"""Names of primitives whose forward meaning is that of the one jaxpr they hold."""

_PACKAGES = ("firstdiff", "flax", "haiku", "equinox", "keras", "jax")
_FRAMEWORKS = tuple(f"{os.sep}{package}{os.sep}" for package in _PACKAGES)
_OURS = str(Path(__file__).parents[2]) + os.sep
_PORTS = os.path.join(_OURS, "models", "qwen2", "")
"""Models of our own, which are traced like a user's."""

_capture = cast("Any", jax).make_user_context(None)


@contextlib.contextmanager
def capturing(token: object) -> Iterator[None]:
    """Make ``token`` (hashable, compared by value) part of every `jax.jit` cache key inside.

    A function that was jitted and called before would otherwise be taken from its cache, untapped;
    and a trace made with taps would be taken from the cache by later plain calls.
    """
    with _capture(token):
        yield


def capture_token() -> Any:
    """The token of the capture that is tracing now in this thread, None outside."""
    return _capture.value


def inner_jaxpr(eqn: JaxprEqn) -> ClosedJaxpr | None:
    """The jaxpr of an equation named in `JIT` or `INLINED`; None where this JAX stores it in
    another place."""
    for name in ("jaxpr", "call_jaxpr", "fun_jaxpr", "call"):
        found = eqn.params.get(name)
        if isinstance(found, ClosedJaxpr):
            return found
        if isinstance(found, Jaxpr):
            return ClosedJaxpr(found, ())
    return None


def jaxprs_of(eqn: JaxprEqn) -> Iterator[Jaxpr]:
    """Every jaxpr that an equation holds in its parameters."""
    for param in eqn.params.values():
        for item in param if isinstance(param, tuple | list) else (param,):
            if isinstance(item, ClosedJaxpr):
                yield item.jaxpr
            elif isinstance(item, Jaxpr):
                yield item


def replaced(program: Program, **changes: Any) -> Program:
    """A jaxpr or an equation with other fields."""
    return cast("Program", cast("Any", program).replace(**changes))


def bind(eqn: JaxprEqn, operands: Sequence[Any]) -> list[Any]:
    """Bind ``eqn`` unchanged to ``operands``, under the contexts (matmul precision, mesh, names) it
    was traced in."""
    primitive: Any = eqn.primitive
    bound = primitive.get_bind_params(eqn.params)
    functions, params = bound if isinstance(bound, tuple) else ((), bound)
    with in_context(eqn):
        result = primitive.bind(*functions, *operands, **params)
    return list(result) if primitive.multiple_results else [result]


@contextlib.contextmanager
def in_context(eqn: JaxprEqn) -> Iterator[None]:
    """Trace under the configuration, name stack and source line of ``eqn``."""
    stack = source_info_util.current_name_stack() + eqn.source_info.name_stack
    named = source_info_util.user_context(eqn.source_info.traceback, name_stack=stack)
    with named, eqn.ctx.manager:
        yield


def jit_like(eqn: JaxprEqn, function: Callable[..., Any]) -> Callable[..., Any]:
    """``function(operands, extra) -> (results, more)`` under the shardings of a `jit` equation."""
    inside, outside = eqn.params["in_shardings"], eqn.params["out_shardings"]
    if all(sharding is UNSPECIFIED for sharding in (*inside, *outside)):
        return jax.jit(function)
    return jax.jit(
        function,
        in_shardings=(list(inside), UNSPECIFIED),
        out_shardings=(list(outside), UNSPECIFIED),
    )


def manual_axes(eqn: JaxprEqn) -> tuple[str, ...]:
    """Mesh axes that a `shard_map` equation makes manual, in the mesh's order."""
    params = eqn.params
    manual = params["newly_manual_axes" if "newly_manual_axes" in params else "manual_axes"]
    return tuple(name for name in params["mesh"].axis_names if name in manual)


def varying_axes_of(aval: Any) -> frozenset[str]:
    """Names of the manual mesh axes over which a value of type ``aval`` differs, in a checked
    `shard_map`."""
    manual = getattr(aval, "manual_axis_type", None)
    return frozenset(manual.varying if manual is not None else getattr(aval, "vma", None) or ())


def to_varying(value: Any, axes: Iterable[str]) -> Any:
    """``value``, now typed as varying over ``axes`` too."""
    known = varying_axes_of(jax.typeof(value))
    missing = tuple(axis for axis in axes if axis not in known)
    return jax.lax.pcast(value, missing, to="varying") if missing else value


def zeros_of(aval: Any) -> Any:
    """Zeros of type ``aval``: shape, dtype, explicit sharding and varying axes."""
    return like(jnp.zeros(aval.shape, aval.dtype), aval)


def like(value: Any, aval: Any) -> Any:
    """``value`` with the explicit sharding and the varying axes of ``aval``."""
    sharding = getattr(aval, "sharding", None)
    if sharding is not None and _is_explicit(sharding):
        value = cast("Any", jax.sharding).reshard(value, sharding.spec)
    return to_varying(value, varying_axes_of(aval))


def _is_explicit(sharding: Any) -> bool:
    mesh = getattr(sharding, "mesh", None)
    return mesh is not None and AxisType.Explicit in getattr(mesh, "axis_types", ())


def is_outside(value: object) -> bool:
    """Whether ``value`` may be used here: it is concrete, or a tracer of the program that is being traced now,
    and not one of an inner program that was left."""
    trace = getattr(value, "_trace", None)
    return trace is None or trace is cast("Any", core).trace_ctx.trace


def wait_for(values: Any) -> None:
    """Return when ``values`` are computed; errors of the computation are raised here."""
    cast("Any", jax).block_until_ready(values)


def wait_for_callbacks() -> None:
    """Return when all callbacks of what was computed have returned."""
    cast("Any", jax).effects_barrier()


def source_line(eqn: JaxprEqn) -> str:
    """`file:line` of the innermost user frame of ``eqn``; "" when there is none.

    Frames of JAX, of the model frameworks and of firstdiff are not the user's.
    """
    return source_place(eqn)[1]


def source_place(eqn: JaxprEqn) -> tuple[str, str]:
    """Qualified name of the function that the line of `source_line` stands in, and that line."""
    for frame in source_info_util.user_frames(eqn.source_info.traceback):
        if not is_framework(frame.file_name):
            name = frame.function_name.rpartition("<locals>.")[2]
            return name, f"{frame.file_name}:{frame.start_line}"
    return "", ""


def name_stack(eqn: JaxprEqn) -> str:
    """Name scopes that ``eqn`` was traced in, outermost first, relative to its own jaxpr."""
    return str(eqn.source_info.name_stack)


def is_framework(file: str) -> bool:
    """Whether ``file`` belongs to JAX, a model framework or firstdiff."""
    return (file.startswith(_OURS) and not file.startswith(_PORTS)) or (
        "site-packages" in file and any(package in file for package in _FRAMEWORKS)
    )
