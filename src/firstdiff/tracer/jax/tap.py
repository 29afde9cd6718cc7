"""`tap`: an identity that marks a value for recording.

Apart from reaping, because front ends know only this file: they say where a tap goes and what it is
called. A tap is an identity primitive with a static key. It does nothing by itself: `reap` reads
the traced program and turns taps into extra outputs, `plant` into inputs. Outside a capture nothing
is bound at all, so a plain run of a tapped function is the untapped program.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar, cast

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from firstdiff.tracer.jax import compat
from firstdiff.traces.schema import level_of

if TYPE_CHECKING:
    from firstdiff.tracer.jax.inside import Inside
    from firstdiff.tracer.jax.repeats import Repeat
    from firstdiff.traces.schema import Level, Site

T = TypeVar("T")
Opaque = Callable[[object], bool]

_serials = itertools.count()
_scope: ContextVar[str] = ContextVar("firstdiff_tap_scope", default="")


@dataclass(frozen=True)
class TapKey:
    """Static name of a tap. Call index and iteration are not here: they are known when the program
    is read."""

    path: str
    """Dotted path; `{}` in it, where given, is the place of the iteration of the enclosing scan."""
    site: Site
    """Whether the module received or returned the value."""
    leaf: str = ""
    """Place inside the arguments or the result."""
    method: str = "__call__"
    """Method of the module."""
    class_name: str = ""
    """Class of the module."""
    front_end: str = ""
    """Name of the front end that placed it; "" for an explicit `firstdiff.tap`."""
    serial: int = 0
    """The same for all taps of one traced call, another for every other traced call
    (`new_serial`)."""
    plantable: bool = True
    """False where the model goes on with its own value: a container that we must not copy."""
    weights: bool = True
    """False where a value that depends on parameters alone is not recorded."""
    observed: bool = False
    """Whether the program was traced past the tap: it goes on with the value itself (`threaded`)."""
    repeats: tuple[Repeat, ...] = ()
    """The enclosing calls that stand in a Python loop, outermost first: their numbers go into the path."""
    source: str = ""
    """`file:line` to say of it, where that is not the line at which it is tapped."""

    @property
    def level(self) -> Level:
        """Whether it is a value of a module, or of what happens inside one."""
        return level_of(self.method)


tap_p: Any = Primitive("firstdiff_tap")
"""Unary identity. Params: ``key`` (`TapKey`), ``batch`` (places of the axes that `vmap` added,
outermost first).

An axis stays where the program has it: moving it to the front here would cost the device a copy, so the value is
turned on the host when it is recorded (`Tap.turned`)."""


def _identity(value: Any, **_params: Any) -> Any:
    return value


def _batched(
    operands: tuple[Any], dims: tuple[Any], *, key: TapKey, batch: Sequence[int]
) -> tuple[Any, Any]:
    (value,), (dim,) = operands, dims
    if dim is None:
        return tap_p.bind(value, key=key, batch=batch), dim
    inner = (place + 1 if place >= dim else place for place in batch)
    return tap_p.bind(value, key=key, batch=(dim, *inner)), dim


def _jvp(primals: tuple[Any], tangents: tuple[Any], **params: Any) -> tuple[Any, Any]:
    return tap_p.bind(*primals, **params), tangents[0]


tap_p.def_impl(_identity)
tap_p.def_abstract_eval(_identity)
mlir.register_lowering(tap_p, lambda _context, value, **_params: [value])
batching.primitive_batchers[tap_p] = _batched
ad.primitive_jvps[tap_p] = _jvp
ad.primitive_transposes[tap_p] = lambda cotangent, _value, **_params: [cotangent]


def tap(name: str, value: T) -> T:
    """Mark ``value`` (an array or any pytree of arrays) for recording as the output of ``name``;
    returns it.

    For plain functions, and for values between modules. Inside a module that a front end knows,
    ``name`` is relative to that module. Inside `lax.scan`, `{}` in ``name`` is the place of the
    iteration (`layers.{}.mlp`); without it the place is found from the other taps of the body.
    Outside a capture this returns ``value`` itself and adds nothing to a traced program.
    """
    token = compat.capture_token()
    if token is None:
        return value
    prefix = _scope.get()
    if prefix:
        note_relative()
    path = f"{prefix}.{name}" if prefix and name else prefix or name
    return tap_tree(value, TapKey(path, "output", serial=new_serial()))


class Capturing:
    """One tracing of a model; the first half of its capture token.

    JAX caches the trace of a jitted function, with the names of the taps in it. A helper that taps under a name
    relative to its caller must therefore be traced for every caller, which takes time; so a model is traced
    without that first, and again, ``scoped``, when `relative` turned out true.
    """

    def __init__(self, *, scoped: bool = False, inside: Inside | None = None) -> None:
        self.scoped = scoped or inside is not None
        self.relative = False
        self.inside = inside
        """What looks into modules; None at the level of modules."""


def note_relative() -> None:
    """Tell the capture that a name depends on the caller's."""
    token = compat.capture_token()
    if token is not None and isinstance(token[0], Capturing):
        token[0].relative = True


def current_scope() -> str:
    """Path of the module whose code is being traced, as its front end spells it."""
    return _scope.get()


def new_serial() -> int:
    """A number that no other traced call has."""
    return next(_serials)


@contextlib.contextmanager
def scope(path: str) -> Iterator[None]:
    """Names given to `firstdiff.tap` inside are relative to ``path``, also in functions that were
    jitted
    before."""
    token = compat.capture_token()
    if token is None:
        yield
        return
    reset = _scope.set(path)
    shared = isinstance(token[0], Capturing) and not token[0].scoped
    try:
        with contextlib.nullcontext() if shared else compat.capturing((token[0], path)):
            yield
    finally:
        _scope.reset(reset)


def is_tappable(value: object) -> bool:
    """Whether ``value`` is a JAX array of numbers: PRNG keys, float0, numpy arrays and Python
    numbers are not."""
    if not isinstance(value, jax.Array):
        return False
    dtype = value.dtype
    return dtype != jax.dtypes.float0 and not jnp.issubdtype(dtype, jax.dtypes.extended)


def tap_leaf(value: Any, key: TapKey) -> Any:
    """Tap one array. A concrete array stays concrete, because the caller may branch on it: it is
    only observed."""
    if isinstance(value, Tracer):
        return tap_p.bind(value, key=key, batch=())
    tap_p.bind(value, key=replace(key, plantable=False), batch=())
    return value


def tap_tree(
    value: T,
    key: TapKey,
    *,
    opaque: Opaque = lambda _value: False,
    copies: list[tuple[Any, Any]] | None = None,
) -> T:
    """Tap every array inside ``value``, naming leaves `.0`, `.key` or `.field` after ``key.leaf``.

    Values for which ``opaque`` is true (modules) and all that is no array are passed through. Lists
    and dicts are copied, and noted in ``copies`` as (original, copy) when given; tuples, named
    tuples and frozen dataclasses are rebuilt. Other containers may be changed in place by the
    model, so their arrays are observed and the container itself is returned.
    """
    walk = _Taps(key, opaque, copies if copies is not None else [])
    return cast("T", walk.visit(value, key.leaf, key.plantable))


@dataclass(frozen=True)
class _Taps:
    key: TapKey
    opaque: Opaque
    copies: list[tuple[Any, Any]]

    def visit(self, value: Any, leaf: str, plantable: bool) -> Any:
        if value is None or self.opaque(value):
            return value
        if isinstance(value, jax.Array):
            if not is_tappable(value):
                return value
            tapped = tap_leaf(value, replace(self.key, leaf=leaf, plantable=plantable))
            return tapped if plantable else value
        if type(value) is dict:
            return self._copied(value, leaf, plantable)
        children, structure = jax.tree_util.tree_flatten_with_path(
            value, is_leaf=lambda node: node is not value
        )
        if not children or children[0][1] is value:
            return value
        rebuilt = plantable and _is_rebuildable(value)
        tapped = [self.visit(child, join(leaf, path), rebuilt) for path, child in children]
        if not rebuilt:
            return value
        copy = jax.tree_util.tree_unflatten(structure, tapped)
        if isinstance(value, list):
            self.copies.append((value, copy))
        return copy

    def _copied(self, value: dict[Any, Any], leaf: str, plantable: bool) -> dict[Any, Any]:
        copy = {
            name: self.visit(child, dotted(leaf, str(name)), plantable)
            for name, child in value.items()
        }
        if not plantable:
            return value
        self.copies.append((value, copy))
        return copy


def _is_rebuildable(value: object) -> bool:
    if isinstance(value, tuple | list):
        return True
    params = getattr(type(value), "__dataclass_params__", None)
    return dataclasses.is_dataclass(value) and params is not None and bool(params.frozen)


def dotted(prefix: str, name: str) -> str:
    """``prefix.name``, or whichever of them is not empty."""
    return f"{prefix}.{name}" if prefix and name else prefix or name


def join(prefix: str, path: tuple[Any, ...]) -> str:
    """``prefix`` followed by a JAX key path: `logits`, `past_key_values.0.keys`."""
    for entry in path:
        for attribute in ("key", "idx", "name"):
            if hasattr(entry, attribute):
                prefix = dotted(prefix, str(getattr(entry, attribute)))
                break
        else:
            prefix = dotted(prefix, str(entry).strip(".[]'\""))
    return prefix
