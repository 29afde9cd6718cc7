"""Flax's bridges between linen and NNX. Apart, because each of the two front ends must know the other's modules."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from firstdiff.tracer.jax.nesting import entered
from firstdiff.tracer.jax.tap import scope

if TYPE_CHECKING:
    from collections.abc import Callable

_WRAPPERS = "flax.nnx.bridge.wrappers"


def is_to_nnx(module: object) -> bool:
    """Whether ``module`` is a linen module in the guise of an NNX one."""
    return _is("ToNNX", module)


def is_to_linen(module: object) -> bool:
    """Whether ``module`` is an NNX module in the guise of a linen one."""
    return _is("ToLinen", module)


def _is(name: str, module: object) -> bool:
    wrappers = sys.modules.get(_WRAPPERS)
    return wrappers is not None and isinstance(module, getattr(wrappers, name))


@contextlib.contextmanager
def bridged(front_end: str, path: str) -> Iterator[None]:
    """Inside, a bridge of ``front_end`` at ``path`` is running. The module behind it is recorded in its place."""
    with scope(path), entered(front_end, path, bridge=True):
        yield


def through_to_linen(
    function: Callable[..., Any],
    module: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    path: str,
) -> Any:
    """The call of a bound `ToLinen`, whose NNX module, made anew for every call, is tapped below ``path``."""
    from firstdiff.tracer.jax.nnx import tapped

    made, method = module.nnx_class, kwargs.get("nnx_method")
    name = getattr(method, "__name__", "")
    if name and getattr(made, name, None) is method:
        kwargs = {**kwargs, "nnx_method": name}  # by name it is looked up when it is patched
    with contextlib.ExitStack() as stack:

        def make(*made_of: Any, **named: Any) -> Any:
            inner = made(*made_of, **named)
            stack.enter_context(tapped(inner, path))
            return inner

        stack.enter_context(bridged("linen", path))
        object.__setattr__(module, "nnx_class", make)
        stack.callback(object.__setattr__, module, "nnx_class", made)
        return function(*args, **kwargs)
