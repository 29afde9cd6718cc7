"""Modules that a call brings along instead of taking them from its model: no front end taps them, so they are named.

Apart from the front ends, because this is about the user's call and reads Python code, whatever the framework.
"""

from __future__ import annotations

import contextlib
import dis
import functools
import sys
from collections.abc import Callable, Iterator
from itertools import islice
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import TYPE_CHECKING, Any

import jax
from jax.core import Tracer

from firstdiff.tracer.jax.frontend import FALLBACK, FRONT_ENDS, load

if TYPE_CHECKING:
    from collections.abc import Sequence

    from firstdiff.tracer.jax.frontend import FrontEnd

_WITH_MODULES = ("nnx", "equinox", "keras")
"""Frameworks whose modules hold their weights."""
_DEPTH = 3
"""How many functions, or containers, deep is looked."""
_MOST = 1000
"""How many values of one container are looked at: a vocabulary holds no modules."""
_NOTE = (
    "the call reaches {} {!r} by itself and not through its model argument: where it runs, nothing of it is recorded; "
    "make it the model, or a part of it"
)


_LEAK = (
    "the call keeps values in {!r}, outside of its model: in a capture these are names of a traced program, and not "
    "carried from step to step; keep them in the model, or return them"
)
_CODE = (type, ModuleType, FunctionType, MethodType)


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
        items = list(islice(_items(value, _DEPTH), _MOST))
        strange = any(map(_is_graph, items)) or any(
            _is_module(item, kind) for kind in kinds for item in items
        )
        if strange and not (set(fired) - {FALLBACK} and _is_part(value, model)):
            found[name] = _NOTE.format(type(value).__name__, name)
    return list(found.values())


def notes_on_leaks(call: Callable[..., Any] | None) -> list[str]:
    """A sentence on each Python object outside of the model that ``call`` wrote traced values to."""
    reached = _reached(call, _DEPTH, set()) if call is not None else ()
    return list(dict.fromkeys(_LEAK.format(name) for name, value in reached if _is_leaked(value)))


def _is_leaked(value: object) -> bool:
    if not isinstance(value, list | dict | set | tuple):
        value = getattr(value, "__dict__", None) if not isinstance(value, _CODE) else None
    return any(isinstance(item, Tracer) for item in islice(_items(value, _DEPTH), _MOST))


def _items(value: object, depth: int) -> Iterator[object]:
    """What plain containers hold, to ``depth``. JAX's own walk refuses dicts whose keys have no order."""
    if isinstance(value, list | dict | set | tuple) and depth:
        for item in value.values() if isinstance(value, dict) else value:
            yield from _items(item, depth - 1)
    else:
        yield value


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


def _is_module(value: Any, kind: FrontEnd) -> bool:
    try:
        return kind.handles(value) and bool(kind.modules(value))
    except (TypeError, ValueError):  # a pytree that JAX cannot walk
        return False


def _is_graph(value: object) -> bool:
    nnx: Any = sys.modules.get("flax.nnx")
    return nnx is not None and isinstance(value, nnx.GraphDef)


def _is_part(value: Any, model: Any) -> bool:
    layers = getattr(model, "_flatten_layers", None)  # a Keras model is no pytree
    if layers is not None:
        return any(layer is value for layer in layers())
    leaves = jax.tree_util.tree_leaves(model, is_leaf=lambda node: node is value)
    return any(leaf is value for leaf in leaves)
