"""Front end for Haiku: `hk.intercept_methods`. The model is the parameter tree beside the user's
`apply`.

Inside `layer_stack` Haiku starts counting names anew; they are put back under the name that the
stack has outside, which its parameters have too.
"""

from __future__ import annotations

import contextlib
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import haiku as hk
from haiku._src.layer_stack import _LayerStack

from firstdiff.tracer.jax.call import bound_signature, tap_call
from firstdiff.tracer.jax.frontend import Split, is_parameter_tree, split_pytree
from firstdiff.tracer.jax.methods import definer, patched
from firstdiff.tracer.jax.tap import dotted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

_SILENT = ("__init__", "init")
_STACKS = "__layer_stack"
_stack: ContextVar[list[str] | None] = ContextVar("firstdiff_layer_stack", default=None)
"""Path of the `layer_stack` that is running, once it has told."""


class HaikuFrontEnd:
    """Taps the arguments and results of every method of every Haiku module.

    Constructors, properties and the modules by which `layer_stack` lifts its parameters are left
    out. A module is named by its Haiku name without the `~method` segments, which say in which
    method it was made and not where it is.
    """

    name = "haiku"

    def handles(self, model: Any) -> bool:
        """Parameter trees: what `init` gives, also beside a state tree in a tuple or list."""
        if isinstance(model, tuple | list) and model:
            return all(part is None or is_parameter_tree(part) or not part for part in model)
        return is_parameter_tree(model)

    @contextlib.contextmanager
    def installed(self, model: Any) -> Iterator[Any]:
        """Intercept while inside; the model itself is untouched."""
        stacks = patched([(_LayerStack, "__call__")], _around_stack)
        with stacks, hk.intercept_methods(_intercept):
            yield model

    def split(self, model: Any) -> Split:
        """The tree's arrays."""
        return split_pytree(model)

    def modules(self, model: Any, module: Any = None) -> Sequence[tuple[str, str]]:  # noqa: ARG002 - the protocol's parameter
        """Modules that own parameters; Haiku knows no others outside a call."""
        if not self.handles(model):
            return []
        trees = model if isinstance(model, tuple | list) else [model]
        names = [name for tree in trees for name in _names(tree)]
        return [(path, "") for path in dict.fromkeys(map(module_path, names))]

    def aliases(self, model: Any) -> Mapping[str, tuple[str, ...]]:
        """None: a Haiku module has one name."""
        del model
        return {}


def module_path(name: str) -> str:
    """Dotted path of a Haiku module name: `encoder/~/layer_0/~attend/query` is
    `encoder.layer_0.query`."""
    segments = [part for part in name.split("/") if not part.startswith(("~", _STACKS))]
    return ".".join(segments)


def _intercept(
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    context: hk.MethodContext,
) -> Any:
    module, method = context.module, context.method_name
    cls = type(module)
    written = getattr(cls, method, None)
    overridden = context.orig_class is not definer(cls, method)
    if method in _SILENT or isinstance(written, property) or overridden:
        return function(*args, **kwargs)
    path = dotted(_enclosing(), module_path(module.module_name))
    if _is_lifting(module):
        _tell(path)
        return function(*args, **kwargs)
    return tap_call(
        function,
        args,
        kwargs,
        path=path,
        class_name=cls.__name__,
        method=method,
        front_end=HaikuFrontEnd.name,
        signature=bound_signature(written) if written is not None else None,
        opaque=_is_module,
        relative=True,
    )


def _around_stack(
    _name: str, method: Any, stack: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    reset = _stack.set([_enclosing()])
    try:
        return method(stack, *args, **kwargs)
    finally:
        _stack.reset(reset)


def _enclosing() -> str:
    stack = _stack.get()
    return stack[-1] if stack else ""


def _tell(path: str) -> None:
    stack = _stack.get()
    if stack is not None:
        stack[-1] = path


def _is_lifting(module: Any) -> bool:
    return type(module).__module__ == "haiku._src.lift"


def _is_module(value: object) -> bool:
    return isinstance(value, hk.Module)


def _names(tree: Any) -> Iterator[str]:
    """Module names of a Haiku parameter tree, at any depth of enclosing mappings
    (`{"params": ...}`)."""
    for name, child in (tree or {}).items():
        if not hasattr(child, "items"):
            continue
        if any(hasattr(grandchild, "items") for grandchild in child.values()):
            yield from _names(child)
        else:
            yield name
