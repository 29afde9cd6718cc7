"""Modules that a call brings along instead of taking them from its model: no front end taps them, so they are named.

Apart from the front ends, because this is about the user's call and reads Python code, whatever the framework.
"""

from __future__ import annotations

import contextlib
import dis
import functools
import sys
from collections.abc import Callable, Iterator
from types import CodeType, FunctionType, MethodType
from typing import TYPE_CHECKING, Any

import jax

from firstdiff.tracer.jax.frontend import FALLBACK, FRONT_ENDS, load

if TYPE_CHECKING:
    from collections.abc import Sequence

_WITH_MODULES = ("nnx", "equinox", "keras")
"""Frameworks whose modules hold their weights."""
_DEPTH = 3
"""How many functions deep is looked."""
_NOTE = (
    "the call reaches {} {!r} by itself and not through its model argument: where it runs, nothing of it is recorded; "
    "make it the model, or a part of it"
)


def notes_on_strangers(
    call: Callable[..., Any] | None, model: Any, fired: Sequence[str]
) -> list[str]:
    """A sentence on each module of a framework that ``call`` gets from its closure, defaults or globals.

    A module that is the model itself, or a part of it, counts only where no front end recorded anything: people
    read a size or a flag off it. ``fired`` names the front ends that did.
    """
    if call is None:
        return []
    names = [name for name in _WITH_MODULES if FRONT_ENDS[name].package in sys.modules]
    kinds = [load(name) for name in names]
    found: dict[str, str] = {}
    for name, value in _reached(call, _DEPTH, set()):
        strange = _is_graph(value) or any(
            kind.handles(value) and kind.modules(value) for kind in kinds
        )
        if strange and not (set(fired) - {FALLBACK} and _is_part(value, model)):
            found[name] = _NOTE.format(type(value).__name__, name)
    return list(found.values())


def _reached(value: Any, depth: int, seen: set[int]) -> Iterator[tuple[str, Any]]:
    """(name, value) of all that the function ``value`` holds, and the functions among that, to ``depth``."""
    if id(value) in seen or not depth:
        return
    seen.add(id(value))
    for name, held in _held(value):
        yield name, held
        if callable(held) and not isinstance(held, type):
            yield from _reached(held, depth - 1, seen)


def _held(function: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(function, functools.partial):
        yield getattr(function.func, "__name__", "func"), function.func
        yield from ((f"argument {place}", value) for place, value in enumerate(function.args))
        yield from function.keywords.items()
    elif isinstance(function, MethodType):
        yield "self", function.__self__
        yield function.__name__, function.__func__
    elif isinstance(function, FunctionType):
        yield from _surroundings(function)
    elif isinstance(getattr(function, "__wrapped__", None), FunctionType):  # jax.jit and its like
        yield function.__wrapped__.__name__, function.__wrapped__


def _surroundings(function: FunctionType) -> Iterator[tuple[str, Any]]:
    """What a Python function has from its closure, its defaults and its globals."""
    code, cells = function.__code__, function.__closure__ or ()
    for name, cell in zip(code.co_freevars, cells, strict=True):
        with contextlib.suppress(ValueError):  # a cell that is not filled yet
            yield name, cell.cell_contents
    defaults = function.__defaults__ or ()
    yield from zip(code.co_varnames[code.co_argcount - len(defaults) :], defaults, strict=False)
    yield from (function.__kwdefaults__ or {}).items()
    for name in _globals(code):
        if name in function.__globals__:
            yield name, function.__globals__[name]


def _globals(code: CodeType) -> Iterator[str]:
    """Names of globals that ``code`` and the functions defined in it read."""
    for instruction in dis.get_instructions(code):
        if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            yield str(instruction.argval)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _globals(constant)


def _is_graph(value: object) -> bool:
    nnx: Any = sys.modules.get("flax.nnx")
    return nnx is not None and isinstance(value, nnx.GraphDef)


def _is_part(value: Any, model: Any) -> bool:
    layers = getattr(model, "_flatten_layers", None)  # a Keras model is no pytree
    if layers is not None:
        return any(layer is value for layer in layers())
    leaves = jax.tree_util.tree_leaves(model, is_leaf=lambda node: node is value)
    return any(leaf is value for leaf in leaves)
