"""Front end for Keras 3 on the JAX backend: `Layer.__call__` of the layers of the model.

Keras layers are objects with variables, so their arrays become arguments of a jitted function only
through a `StatelessScope`. A layer is known by identity, which no transformation changes.
"""

from __future__ import annotations

import contextlib
import inspect
import re
from collections import Counter
from typing import TYPE_CHECKING, Any

import jax
import keras
from keras.src.backend.common.masking import get_keras_mask, set_keras_mask

from firstdiff.tracer.jax.call import tap_call
from firstdiff.tracer.jax.frontend import Split
from firstdiff.tracer.jax.methods import definer, patched, recorded_methods
from firstdiff.traces.errors import SubjectError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

_BASES = (keras.Layer, keras.Model, keras.Sequential)


class KerasFrontEnd:
    """Taps on every layer of a Keras model.

    A layer is named by its owners' and its own `name`; where Keras made the name up (`dense_3`), by
    the attribute that holds it.
    """

    name = "keras"

    def handles(self, model: Any) -> bool:
        """Whether ``model`` is a Keras layer or model."""
        return isinstance(model, keras.Layer)

    @contextlib.contextmanager
    def installed(self, model: Any) -> Iterator[Any]:
        """Patch `Layer.__call__` and further public methods of the user's layers, while inside."""
        paths: dict[int, str] = {}
        methods: dict[tuple[type, str], None] = {(keras.Layer, "stateless_call"): None}
        for path, layer, is_alias in layer_places(model):
            if not is_alias:
                paths[id(layer)] = path
                methods.update(dict.fromkeys(_methods(type(layer))))

        def around(
            name: str, method: Any, layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
        ) -> Any:
            path = paths.get(id(layer))
            if path is None:
                return method(layer, *args, **kwargs)
            if name == "stateless_call":
                return _tapped_stateless(method, layer, args, kwargs, path)
            return _tapped(name, method, layer, args, kwargs, path)

        with patched(methods, around):
            yield model

    def split(self, model: Any) -> Split:
        """The values of all variables, seed and normalisation state included.

        While the model runs, a scope around the whole call holds them: what layers assign is kept there, and
        the user's variables keep their values.
        """
        if keras.backend.backend() != "jax":
            raise SubjectError(
                f"{model.name}: Keras runs on {keras.backend.backend()}, not on JAX; set "
                "KERAS_BACKEND=jax before keras is imported"
            )
        if not model.built:
            raise SubjectError(
                f"{model.name}: the Keras model is not built and has no weights yet; call it once "
                "in the factory"
            )
        variables = list(model.variables)

        @contextlib.contextmanager
        def running(arrays: Sequence[Any]) -> Iterator[Any]:
            with keras.StatelessScope(list(zip(variables, arrays, strict=True))):
                yield model

        return Split(
            [variable.value for variable in variables],
            lambda _arrays: model,
            [id(variable) for variable in variables],
            running,
            lambda place: str(variables[place].path).replace("/", "."),
        )

    def modules(self, model: Any, module: Any = None) -> Sequence[tuple[str, str]]:  # noqa: ARG002 - the protocol's parameter
        """Every layer once, in the order in which owners hold them."""
        return [
            (path, type(layer).__name__)
            for path, layer, is_alias in layer_places(model)
            if not is_alias
        ]

    def aliases(self, model: Any) -> Mapping[str, tuple[str, ...]]:
        """Further places of a shared layer, by the first."""
        first: dict[int, str] = {}
        found: dict[str, tuple[str, ...]] = {}
        for path, layer, is_alias in layer_places(model):
            recorded = first.setdefault(id(layer), path)
            if is_alias:
                found[recorded] = (*found.get(recorded, ()), path)
        return found


def _methods(cls: type) -> Iterator[tuple[type, str]]:
    """`__call__`, and methods like `call_with_cache` that classes outside Keras itself define."""
    yield definer(cls, "__call__") or keras.Layer, "__call__"
    for name, (owner, _) in recorded_methods(cls, _BASES).items():
        if name != "__call__" and owner.__module__.partition(".")[0] != "keras":
            yield owner, name


def _tapped(
    name: str, method: Any, layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any], path: str
) -> Any:
    """The call, tapped. Keras ties masks to array objects, so tapped arrays take them over."""
    results: list[Any] = []

    def run(*tapped: Any, **tapped_kwargs: Any) -> Any:
        _take_masks((tapped, tapped_kwargs), (args, kwargs))
        results.append(method(layer, *tapped, **tapped_kwargs))
        return results[-1]

    result = tap_call(
        run,
        args,
        kwargs,
        path=path,
        class_name=type(layer).__name__,
        method=name,
        front_end=KerasFrontEnd.name,
        signature=inspect.signature(layer.call if name == "__call__" else getattr(layer, name)),
        opaque=_is_layer,
    )
    _take_masks(result, results[-1])
    return result


def _tapped_stateless(
    method: Any, layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any], path: str
) -> Any:
    """`stateless_call(trainable, non_trainable, *args)`, recorded like the call that it makes."""
    rest: list[Any] = []

    def call(_layer: Any, *inputs: Any, **named: Any) -> Any:
        result, *others = method(layer, *args[:2], *inputs, **named)
        rest.extend(others)
        return result

    result = _tapped("__call__", call, layer, args[2:], kwargs, path)
    return (result, *rest)


def _take_masks(new: Any, old: Any) -> None:
    leaves = zip(jax.tree_util.tree_leaves(new), jax.tree_util.tree_leaves(old), strict=True)
    for ours, theirs in leaves:
        mask = get_keras_mask(theirs) if ours is not theirs else None
        if mask is not None:
            set_keras_mask(ours, mask)


def _is_layer(value: object) -> bool:
    return isinstance(value, keras.Layer)


def layer_places(model: Any) -> Iterator[tuple[str, Any, bool]]:
    """(dotted path, layer, whether it was seen before under another path), owners first."""
    return _walk(model, (), set())


def _walk(layer: Any, path: tuple[str, ...], seen: set[int]) -> Iterator[tuple[str, Any, bool]]:
    known = id(layer) in seen
    seen.add(id(layer))
    yield ".".join(path), layer, known
    if not known:
        for name, child in _children(layer):
            yield from _walk(child, (*path, name), seen)


def _children(layer: Any) -> Iterator[tuple[str, Any]]:
    names: Counter[str] = Counter()
    layers = [child for child in layer._layers if not isinstance(child, keras.layers.InputLayer)]
    for index, child in enumerate(dict.fromkeys(layers)):
        name = _segment(layer, child, index)
        yield f"{name}_{names[name]}" if names[name] else name, child
        names[name] += 1


def _segment(owner: Any, child: Any, index: int) -> str:
    """The child's own name. Where Keras made that up with a number that counts all layers of the
    process: its place in a `Sequential`, or the attribute that holds it, or the name without the
    number."""
    plain = re.sub(r"_\d+$", "", str(child.name))
    if plain.replace("_", "") != type(child).__name__.lower():
        return str(child.name)
    if isinstance(owner, keras.Sequential):
        return str(index)
    return _attribute(owner, child) or plain


def _attribute(owner: Any, child: Any) -> str:
    for name, value in vars(owner).items():
        if value is child:
            return str(name).lstrip("_")
        for key, item in _items(value) if not name.startswith("_") else ():
            if item is child:
                return f"{name}.{key}"
    return ""


def _items(value: object) -> Iterable[tuple[Any, Any]]:
    if isinstance(value, list | tuple):
        return enumerate(value)
    return value.items() if isinstance(value, dict) else ()
