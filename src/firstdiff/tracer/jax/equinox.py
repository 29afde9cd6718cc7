"""Equinox: a copy of the model whose modules are instances of traced subclasses.

Equinox has no hooks, and its modules are values: any transformation makes new ones, so identity
says nothing. A traced subclass carries the path as a static field, which every transformation
keeps. `isinstance` still holds, and neither the user's model nor any class is changed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import re
import types
import warnings
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax

from firstdiff.tracer.jax.call import bound_signature, tap_call
from firstdiff.tracer.jax.frontend import Split, split_pytree
from firstdiff.tracer.jax.methods import recorded_methods
from firstdiff.tracer.jax.tap import dotted, join
from firstdiff.traces.errors import SubjectError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

_TAG = "_firstdiff_path"
_MISMATCH = re.compile("pytree structure|custom node|mismatch", re.IGNORECASE)
_WHOLE = (
    "where the call joins the model with another Equinox module (equinox.combine, a tree_map over both), make the "
    "whole module the model: a capture records a copy whose classes are subclasses of its own"
)
_METHODS: dict[type, dict[str, tuple[type, Any]]] = {}
_TRACED: dict[type, type] = {}
"""Traced subclasses, made once: JAX keeps every pytree class for ever."""


class EquinoxFrontEnd:
    """Taps on every module of an Equinox model, or of any pytree that holds Equinox modules."""

    name = "equinox"

    def handles(self, model: Any) -> bool:
        """Whether ``model`` is or holds an Equinox module."""
        return any(isinstance(leaf, eqx.Module) for _, leaf in _entries(model))

    @contextlib.contextmanager
    def installed(self, model: Any) -> Iterator[Any]:
        """Yields a tapped copy of ``model`` with the same arrays. There is nothing to undo.

        `SubjectError` with the remedy where the call joins the copy with a module from outside: their classes differ.
        """
        try:
            yield _traced(model, "", {})
        except SubjectError as error:
            cause = error.__cause__
            if not (isinstance(cause, ValueError) and _MISMATCH.search(str(cause))):
                raise
            raise SubjectError(f"{error}; {_WHOLE}") from cause

    def split(self, model: Any) -> Split:
        """As `equinox.filter_jit` does: JAX arrays are arguments, everything else is static."""
        arrays, static = eqx.partition(model, eqx.is_array)
        leaves, structure = jax.tree_util.tree_flatten(arrays)

        def rebuild(values: Any) -> Any:
            return eqx.combine(jax.tree_util.tree_unflatten(structure, values), static)

        return Split(leaves, rebuild, f"{structure} {static}", name=split_pytree(arrays).name)

    def modules(self, model: Any, module: Any = None) -> Sequence[tuple[str, str]]:  # noqa: ARG002 - the protocol's parameter
        """Every module with methods, once, in the order of fields."""
        return [
            (path, type(found).__name__) for path, found, is_alias in _places(model) if not is_alias
        ]

    def aliases(self, model: Any) -> Mapping[str, tuple[str, ...]]:
        """Further fields that hold the same module, by the first."""
        first: dict[int, str] = {}
        found: dict[str, tuple[str, ...]] = {}
        for path, module, is_alias in _places(model):
            recorded = first.setdefault(id(module), path)
            if is_alias:
                found[recorded] = (*found.get(recorded, ()), path)
        return found


def _entries(tree: Any) -> list[tuple[Any, Any]]:
    """Key paths and leaves of a pytree, a module counting as a leaf."""
    return jax.tree_util.tree_flatten_with_path(
        tree, is_leaf=lambda node: isinstance(node, eqx.Module)
    )[0]


def _fields(module: Any) -> Iterator[tuple[str, Any]]:
    """Dynamic fields of a module that are set: path segment, value. Wrappers like a bound method
    add no segment."""
    for field in dataclasses.fields(module):
        if field.name in vars(module) and not field.metadata.get("static", False):
            yield "" if _is_wrapper(type(module)) else field.name, vars(module)[field.name]


def _is_wrapper(cls: type) -> bool:
    """Whether ``cls`` is Equinox's own plumbing (`BoundMethod`, `nn.Shared`, what `filter_jit`
    returns) rather than a layer."""
    package, _, rest = cls.__module__.partition(".")
    return package == "equinox" and (cls is eqx.nn.Shared or not rest.startswith("nn"))


def _methods(cls: type) -> dict[str, tuple[type, Any]]:
    if cls not in _METHODS:
        _METHODS[cls] = {} if _is_wrapper(cls) else recorded_methods(cls, [eqx.Module])
    return _METHODS[cls]


def _is_opaque(value: object) -> bool:
    """Whether ``value`` is a module that runs, or a state store. A module without methods is a
    record of arrays."""
    if isinstance(value, eqx.nn.State):
        return True
    return isinstance(value, eqx.Module) and (
        _is_wrapper(type(value)) or bool(_methods(type(value)))
    )


def _places(model: Any) -> Iterator[tuple[str, Any, bool]]:
    """(dotted path, module, whether it was seen before under another path), parents first."""
    return _walk(model, "", set())


def _walk(tree: Any, path: str, seen: set[int]) -> Iterator[tuple[str, Any, bool]]:
    for keys, module in _entries(tree):
        if not isinstance(module, eqx.Module):
            continue
        here = join(path, keys)
        known = id(module) in seen
        seen.add(id(module))
        if _methods(type(module)):
            yield here, module, known
        if not known:
            for name, value in _fields(module):
                yield from _walk(value, dotted(here, name), seen)


def _traced(tree: Any, path: str, done: dict[int, tuple[Any, Any]]) -> Any:
    """``tree`` with traced modules. ``done`` keeps what was made, by the identity of the original:
    a shared module stays shared."""

    def replaced(keys: Any, leaf: Any) -> Any:
        if not isinstance(leaf, eqx.Module):
            return leaf
        if id(leaf) not in done:
            done[id(leaf)] = leaf, _traced_module(leaf, join(path, keys), done)
        return done[id(leaf)][1]

    return jax.tree_util.tree_map_with_path(
        replaced, tree, is_leaf=lambda node: isinstance(node, eqx.Module)
    )


def _traced_module(module: Any, path: str, done: dict[int, tuple[Any, Any]]) -> Any:
    cls = type(module)
    copy: Any = object.__new__(_traced_class(cls) if _methods(cls) else cls)
    values = dict(vars(module))
    names = [field.name for field in dataclasses.fields(module) if not field.metadata.get("static")]
    segments = (
        dict.fromkeys(names, "") if _is_wrapper(cls) else dict(zip(names, names, strict=True))
    )
    for name in names:
        if name in values:
            values[name] = _traced(values[name], dotted(path, segments[name]), done)
    if _methods(cls):
        values[_TAG] = path
    for name, value in values.items():
        object.__setattr__(copy, name, value)
    return copy


def _traced_class(cls: type) -> type:
    """Subclass of ``cls`` whose methods tap."""
    if cls in _TRACED:
        return _TRACED[cls]

    def body(namespace: dict[str, Any]) -> None:
        namespace.update(__module__=cls.__module__, __qualname__=cls.__qualname__)
        namespace.update(__doc__=cls.__doc__, __annotations__={_TAG: str})
        namespace[_TAG] = eqx.field(static=True, default="")
        for name, (_, method) in _methods(cls).items():
            namespace[name] = _tapped(cls, name, method)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the user has had them when `cls` was made
        _TRACED[cls] = types.new_class(cls.__name__, (cls,), {}, body)
    return _TRACED[cls]


def _tapped(cls: type, name: str, method: Any) -> Callable[..., Any]:
    @functools.wraps(method)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        return tap_call(
            method.__get__(self, type(self)),
            args,
            kwargs,
            path=vars(self)[_TAG],
            class_name=cls.__name__,
            method=name,
            front_end=EquinoxFrontEnd.name,
            signature=bound_signature(method),
            opaque=_is_opaque,
        )

    return call
