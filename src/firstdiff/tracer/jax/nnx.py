"""Flax NNX: a tagged copy of the model, and patched classes.

NNX has no interceptors. Every module of the copy carries its path as a static attribute, which is
part of the graph definition: it survives split and merge, and with them `nnx.jit`, `nnx.scan`,
`nnx.vmap`, `nnx.remat` and `lax.scan`. The user's own model is never touched.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from flax import nnx

from firstdiff.tracer.jax.bridges import bridged, is_to_nnx
from firstdiff.tracer.jax.call import bound_signature, tap_call
from firstdiff.tracer.jax.frontend import Split, split_pytree
from firstdiff.tracer.jax.methods import patched, recorded_methods
from firstdiff.tracer.jax.tap import dotted

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_TAG = "_firstdiff_path"
_CONTAINERS = (nnx.List, nnx.Dict)


class NnxFrontEnd:
    """Taps on every module of an NNX model, or of a list, tuple or dict of NNX modules."""

    name = "nnx"

    def handles(self, model: Any) -> bool:
        """Whether ``model`` is or holds an NNX module."""
        return next(_places(model), None) is not None

    @contextlib.contextmanager
    def installed(self, model: Any) -> Iterator[Any]:
        """Patch the classes of ``model``'s modules; yields a tagged copy with the same arrays."""
        if not self.handles(model):
            yield model
            return
        copy = nnx.merge(*nnx.split(model))
        paths = {keys: _at(copy, keys) for keys, _, is_alias in _places(model) if not is_alias}
        with _tapped(paths):
            yield copy

    def split(self, model: Any) -> Split:
        """The state's arrays, and the graph definition."""
        graph, state = nnx.split(model)
        inner = split_pytree(state)

        def rebuild(arrays: Any) -> Any:
            return nnx.merge(graph, inner.rebuild(arrays))

        return Split(inner.arrays, rebuild, (graph, inner.static), name=inner.name)

    def modules(self, model: Any, module: Any = None) -> Sequence[tuple[str, str]]:  # noqa: ARG002 - the protocol's parameter
        """Every module once, in the order in which attributes were set; linen modules behind a bridge too."""
        found: list[tuple[str, str]] = []
        for keys, place, is_alias in _places(model):
            if is_alias:
                continue
            path = ".".join(keys)
            if is_to_nnx(place):
                found.append((path, type(place.to_nnx__module).__name__))
                found.extend((owner, "") for owner in _owners(vars(place), path))
            else:
                found.append((path, type(place).__name__))
        return found

    def aliases(self, model: Any) -> Mapping[str, tuple[str, ...]]:
        """Further attributes that hold the same module, by the first."""
        first: dict[int, str] = {}
        found: dict[str, tuple[str, ...]] = {}
        for keys, module, is_alias in _places(model):
            path = ".".join(keys)
            recorded = first.setdefault(id(module), path)
            if is_alias:
                found[recorded] = (*found.get(recorded, ()), path)
        return found


@contextlib.contextmanager
def tapped(model: Any, path: str) -> Iterator[None]:
    """Tap the modules of ``model``, which the capture itself let be made, under ``path`` while inside."""
    paths = {keys: module for keys, module, is_alias in _places(model) if not is_alias}
    with _tapped({(*filter(None, [path]), *keys): module for keys, module in paths.items()}):
        yield


@contextlib.contextmanager
def _tapped(modules: Mapping[tuple[str, ...], Any]) -> Iterator[None]:
    """Give modules their paths, and patch their classes while inside."""
    methods: dict[tuple[type, str], None] = {}
    for keys, module in modules.items():
        object.__setattr__(module, _tag(module), ".".join(keys))
        found = recorded_methods(type(module), [nnx.Module])
        methods.update(dict.fromkeys((owner, name) for name, (owner, _) in found.items()))
    with patched(methods, _around):
        yield


def _tag(module: Any) -> str:
    """A bridge hands all its attributes to linen but those that begin like its own."""
    return f"to_nnx_{_TAG}" if is_to_nnx(module) else _TAG


def _around(
    name: str, method: Any, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    bound = method.__get__(module, type(module))
    path = vars(module).get(_tag(module))
    if path is None:
        return bound(*args, **kwargs)
    if is_to_nnx(module):
        with bridged(NnxFrontEnd.name, path):
            return bound(*args, **kwargs)
    return tap_call(
        bound,
        args,
        kwargs,
        path=path,
        class_name=type(module).__name__,
        method=name,
        front_end=NnxFrontEnd.name,
        signature=bound_signature(method),
        opaque=_is_opaque,
    )


def _is_opaque(value: object) -> bool:
    return isinstance(value, nnx.Rngs | nnx.RngStream | nnx.GraphDef) or (
        isinstance(value, nnx.Module) and not isinstance(value, _CONTAINERS)
    )


def _places(model: Any) -> Iterator[tuple[tuple[str, ...], Any, bool]]:
    """(path, module, whether it was seen before under another path), parents first, in the order of
    attributes. Containers are walked through, not listed."""
    return _walk(model, (), set())


def _walk(
    node: Any, path: tuple[str, ...], seen: set[int]
) -> Iterator[tuple[tuple[str, ...], Any, bool]]:
    if isinstance(node, nnx.Module) and not isinstance(node, _CONTAINERS):
        known = id(node) in seen
        seen.add(id(node))
        yield path, node, known
        if known:
            return
    for name, child in _children(node):
        yield from _walk(child, (*path, name), seen)


def _children(node: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(node, nnx.Pytree):
        for name, value in vars(node).items():
            if not name.startswith("_pytree__"):
                yield name, value
    elif isinstance(node, list | tuple):
        yield from ((str(index), value) for index, value in enumerate(node))
    elif isinstance(node, dict):
        yield from ((str(name), value) for name, value in node.items())


def _owners(tree: Mapping[str, Any], path: str) -> Iterator[str]:
    """Paths of linen modules that own variables, below a bridge."""
    for name, value in tree.items():
        if isinstance(value, dict):
            yield dotted(path, name)
            yield from _owners(value, dotted(path, name))


def _at(model: Any, path: tuple[str, ...]) -> Any:
    """The node of a model at a path that `_places` gave for another copy of it."""
    for name in path:
        model = dict(_children(model))[name]
    return model
