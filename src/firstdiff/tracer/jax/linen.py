"""Front end for Flax linen: `nn.intercept_methods`. The model is the parameter tree beside the
user's `apply`."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from flax import linen as nn

from firstdiff.tracer.jax.bridges import is_to_linen, through_to_linen
from firstdiff.tracer.jax.call import bound_signature, tap_call
from firstdiff.tracer.jax.frontend import Split, is_array, is_parameter_tree, split_pytree
from firstdiff.tracer.jax.nesting import base_path
from firstdiff.tracer.jax.tap import dotted

_SILENT = frozenset({"setup", "init", "init_with_output", "apply", "bind", "unbind", "copy"})
"""Methods that compute no activation."""


class LinenFrontEnd:
    """Taps the arguments and results of every intercepted method of every linen module.

    Methods under `@nn.nowrap` cannot be intercepted. A module is named by its path in the parameter
    tree.
    """

    name = "linen"

    def handles(self, model: Any) -> bool:
        """Parameter trees: what `Module.init` returns, or its `params`."""
        return is_parameter_tree(model)

    @contextlib.contextmanager
    def installed(self, model: Any) -> Iterator[Any]:
        """Intercept while inside; the model itself is untouched."""
        with nn.intercept_methods(_intercept):
            yield model

    def split(self, model: Any) -> Split:
        """The tree's arrays."""
        return split_pytree(model)

    def modules(self, model: Any, module: Any = None) -> Sequence[tuple[str, str]]:
        """Owners of parameters, and the submodules among ``module``'s fields."""
        known = dict(_declared(module, ())) if isinstance(module, nn.Module) else {}
        tree = model.get("params", model) if isinstance(model, Mapping) else {}
        paths = dict.fromkeys((*_owners(tree, ()), *known))
        return [(path, known.get(path, "")) for path in paths]

    def aliases(self, model: Any) -> Mapping[str, tuple[str, ...]]:
        """None: linen gives a shared module one path."""
        del model
        return {}


def _intercept(
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    context: nn.module.InterceptorContext,
) -> Any:
    module, method = context.module, context.method_name
    cls = type(module)
    written = getattr(cls, method, None)  # a lifting transformation calls its own lambdas as well
    if method in _SILENT or written is None or module.scope is None or module.is_initializing():
        return function(*args, **kwargs)
    if is_to_linen(module):
        if method != "__call__":  # its attributes come through a method too
            return function(*args, **kwargs)
        path = ".".join(module.path)
        path = dotted(base_path(LinenFrontEnd.name, path, ""), path)
        return through_to_linen(function, module, args, kwargs, path)
    return tap_call(
        function,
        args,
        kwargs,
        path=".".join(module.path),
        class_name=class_name(cls),
        method=method,
        front_end="linen",
        signature=bound_signature(written),
        opaque=_is_module,
        relative=True,
    )


def class_name(cls: type) -> str:
    """Name of a module's class as its author wrote it: `nn.remat(Block)` makes a `CheckpointBlock`
    that is a `Block`."""
    base = cls.__bases__[0]
    lifted = cls.__module__ == "flax.linen.transforms" and issubclass(base, nn.Module)
    return class_name(base) if lifted else cls.__name__


def _is_module(value: object) -> bool:
    return isinstance(value, nn.Module)


def _owners(tree: Any, path: tuple[str, ...]) -> Iterator[str]:
    """Paths of all mappings in a parameter tree that hold arrays, at any depth."""
    if not isinstance(tree, Mapping) or not is_parameter_tree(tree):
        return
    yield ".".join(path)
    for name, child in tree.items():
        if not is_array(child):
            yield from _owners(child, (*path, str(name)))


def _declared(module: nn.Module, path: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    yield ".".join(path), class_name(type(module))
    for field in dataclasses.fields(module):
        value = getattr(module, field.name, None)
        if isinstance(value, nn.Module) and field.name != "parent":
            yield from _declared(value, (*path, value.name or field.name))
