"""Tapping one call of one module: its arguments by name, then its result. Every front end ends up
here."""

from __future__ import annotations

import inspect
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from firstdiff.tracer.jax import compat
from firstdiff.tracer.jax.inside import running
from firstdiff.tracer.jax.nesting import base_path, entered
from firstdiff.tracer.jax.tap import (
    Opaque,
    TapKey,
    dotted,
    new_serial,
    note_relative,
    scope,
    tap_tree,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


def tap_call(
    function: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    *,
    path: str,
    class_name: str,
    method: str = "__call__",
    front_end: str = "",
    signature: inspect.Signature | None = None,
    opaque: Opaque = lambda _value: False,
    relative: bool = False,
) -> Any:
    """``function(*args, **kwargs)``, with its arguments and its result tapped. Outside a capture:
    just the call.

    ``signature`` names the positional arguments; it is that of the bound method, without `self`,
    and defaults to ``function``'s own. ``opaque`` tells values to leave alone (modules among the
    arguments). ``relative`` says that ``path`` begins at the framework's own root: where another framework's module
    calls that, the name goes on from there. Inside the call, names given to `firstdiff.tap` are relative to ``path``.
    """
    if compat.capture_token() is None:
        return function(*args, **kwargs)
    base = base_path(front_end, path, class_name) if relative else ""
    path = dotted(base, path)
    if base:
        note_relative()
    key = TapKey(path, "input", "", method, class_name, front_end, new_serial())
    names = argument_names(signature or _signature(function), len(args))
    copies: list[tuple[Any, Any]] = []

    def tapped(name: str, value: Any) -> Any:
        return tap_tree(value, replace(key, leaf=name), opaque=opaque, copies=copies)

    args = [tapped(name, value) for name, value in zip(names, args, strict=True)]
    kwargs = {name: tapped(name, value) for name, value in kwargs.items()}
    before = [_contents(copy) for _, copy in copies]
    with scope(path), entered(front_end, path, base), running(key):
        result = function(*args, **kwargs)
    for (original, copy), contents in zip(copies, before, strict=True):
        _return_changes(original, copy, contents)
    return tap_tree(result, replace(key, site="output"), opaque=opaque)


def argument_names(signature: inspect.Signature | None, count: int) -> list[str]:
    """Names of the first ``count`` positional arguments; `args.0`, `args.1`, ... for ``*args`` or
    without a signature."""
    names: list[str] = []
    rest = "args"
    for parameter in signature.parameters.values() if signature else ():
        if parameter.kind is parameter.VAR_POSITIONAL:
            rest = parameter.name
        if parameter.kind not in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            break
        names.append(parameter.name)
    return [*names[:count], *(f"{rest}.{index}" for index in range(count - len(names)))]


@lru_cache(maxsize=4096)
def bound_signature(function: Callable[..., Any]) -> inspect.Signature | None:
    """Signature of the unbound method ``function`` without its first parameter; None when Python
    knows none."""
    found = _signature(function)
    if found is None:
        return None
    return found.replace(parameters=list(found.parameters.values())[1:])


def _signature(function: Callable[..., Any]) -> inspect.Signature | None:
    try:
        return inspect.signature(function)
    except (TypeError, ValueError):
        return None


def _contents(container: Any) -> list[tuple[Any, Any]]:
    """Key and value of a dict or list, as they are now."""
    return list(container.items()) if isinstance(container, dict) else list(enumerate(container))


def _return_changes(original: Any, copy: Any, before: list[tuple[Any, Any]]) -> None:
    """Do to ``original`` what the call did to ``copy``: a cache that a layer fills in place stays
    filled."""
    after = _contents(copy)
    same = len(after) == len(before) and all(
        now is then and name == old for (name, now), (old, then) in zip(after, before, strict=True)
    )
    if same:
        return
    values = dict(zip((id(value) for _, value in before), _contents(original), strict=True))
    kept = [(name, values[id(now)][1] if id(now) in values else now) for name, now in after]
    if isinstance(original, dict):
        original.clear()
        original.update(kept)
    else:
        original[:] = [value for _, value in kept]
