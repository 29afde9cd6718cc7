"""Watching the Python calls of a running model: which of its own functions ran, with what, and what they returned.

Apart from the frameworks, which differ in what they do with a value. `sys.setprofile` tells of every call in this
thread, so nothing is patched, and a function is seen however it was reached: by name, from a table, as a closure.
"""

from __future__ import annotations

import inspect
import linecache
import sys
import sysconfig
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from firstdiff.traces.schema import FUNCTION_MARK

if TYPE_CHECKING:
    from types import CodeType, FrameType

SUSPENDING = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR
INSTALLED = tuple(
    sysconfig.get_paths()[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")
)
"""Where Python and packages lie."""
_LOCALS = "<locals>."


@dataclass(frozen=True)
class Call:
    """One call of a function of the model's own."""

    method: str
    """`Key.method` of its values: `apply_rotary_pos_emb()`."""
    caller: str
    """Name of the function that called it, the nearest of the model's own."""
    source: str
    """`file:line` of the call, there."""


class Definitions:
    """Where the functions that ran are defined; those of one name in several files are told apart."""

    def __init__(self) -> None:
        self.places: dict[str, str] = {}
        """`file:line` by `Key.method`."""
        self._methods: dict[CodeType, str] = {}

    def method(self, code: CodeType) -> str:
        """`Key.method` of the function with this code."""
        if code not in self._methods:
            name, place = function_name(code), definition(code)
            method = f"{name}{FUNCTION_MARK}"
            if self.places.get(method, place) != place:
                method = (
                    f"{name}@{Path(code.co_filename).name}:{code.co_firstlineno}{FUNCTION_MARK}"
                )
            self.places[method] = place
            self._methods[code] = method
        return self._methods[code]


class CallWatcher(ABC):
    """The profile function while it is installed. Subclasses say which functions count, and take their values."""

    def __init__(self, definitions: Definitions | None = None) -> None:
        self.definitions = definitions or Definitions()
        """Where the functions that ran are defined."""
        self._before: Any = None
        self._calls: list[tuple[FrameType, Any]] = []
        self._busy = False

    def __enter__(self) -> CallWatcher:
        self._before = sys.getprofile()
        sys.setprofile(self._watch)
        return self

    def __exit__(self, *_: object) -> None:
        restore_profiler(self._before)
        while self._calls:
            self.left(self._calls.pop()[1], None)

    @abstractmethod
    def counts(self, code: CodeType, frame: FrameType) -> bool:
        """Whether the function that ``frame`` begins to run is to be recorded."""

    @abstractmethod
    def is_own(self, code: CodeType) -> bool:
        """Whether ``code`` is the model's own: what a line of the model's code means."""

    @abstractmethod
    def entered(self, call: Call, frame: FrameType) -> Any:
        """A function begins; its arguments are in ``frame``. What is returned is given to `left`."""

    @abstractmethod
    def left(self, entered: Any, result: Any) -> None:
        """It returned ``result``, or None after an exception."""

    def _watch(self, frame: FrameType, event: str, arg: Any) -> None:
        if event in (
            "call",
            "return",
        ):  # first: another watcher may say who runs now, or put a value in
            self._seen(frame, event, arg)
        if callable(self._before):
            self._before(frame, event, arg)

    def _seen(self, frame: FrameType, event: str, arg: Any) -> None:
        if self._busy:
            return
        self._busy = True
        try:
            if event == "return":
                if self._calls and self._calls[-1][0] is frame:
                    self.left(self._calls.pop()[1], arg)
            elif self.counts(frame.f_code, frame):
                self._calls.append((frame, self.entered(self._call(frame), frame)))
        finally:
            self._busy = False

    def _call(self, frame: FrameType) -> Call:
        caller = frame.f_back
        while caller is not None and not self.is_own(caller.f_code):
            caller = caller.f_back
        caller = caller or frame.f_back
        if caller is None:
            return Call(self.definitions.method(frame.f_code), "", "")
        place = f"{caller.f_code.co_filename}:{caller.f_lineno}"
        return Call(self.definitions.method(frame.f_code), function_name(caller.f_code), place)


def restore_profiler(profiler: Any) -> None:
    """Set ``profiler``, which `sys.getprofile` gave, again."""
    if profiler is None or callable(profiler):
        sys.setprofile(profiler)
        return
    sys.setprofile(None)
    profiler.enable()  # a profiler written in C, as cProfile is, sets itself


def function_name(code: CodeType) -> str:
    """`rotate_half`, `Attention.split`: the qualified name inside the innermost function."""
    return code.co_qualname.rpartition(_LOCALS)[2]


def is_function(code: CodeType) -> bool:
    """Whether ``code`` is a plain function or method with a name: no comprehension, lambda, class body, generator."""
    name = code.co_name
    if name.startswith("<") or code.co_flags & SUSPENDING:
        return False
    dunder = name.startswith("__") and name.endswith("__") and name != "__call__"
    return bool(code.co_flags & inspect.CO_OPTIMIZED) and not dunder


def definition(code: CodeType) -> str:
    """`file:line` of the `def`; below its decorators, with which the code object begins."""
    line = code.co_firstlineno
    for ahead in range(line, line + 20):
        if linecache.getline(code.co_filename, ahead).lstrip().startswith(("def ", "async def ")):
            return f"{code.co_filename}:{ahead}"
    return f"{code.co_filename}:{line}"


def arguments(frame: FrameType) -> Iterator[tuple[str, Any]]:
    """The arguments of the function that ``frame`` begins to run, by parameter name."""
    found = inspect.getargvalues(frame)
    for name in found.args:
        if name in found.locals:
            yield name, found.locals[name]
    if found.varargs is not None:
        for index, value in enumerate(found.locals.get(found.varargs, ())):
            yield f"{found.varargs}.{index}", value
    if found.keywords is not None:
        yield from found.locals.get(found.keywords, {}).items()


def home_of(file: str) -> Path:
    """The directory of ``file``, or of the outermost package that it belongs to."""
    home = Path(file).resolve().parent
    while (home / "__init__.py").exists() and (home.parent / "__init__.py").exists():
        home = home.parent
    return home


def code_of(function: Callable[..., Any]) -> CodeType | None:
    """The code of a function or method below its decorators; None for what Python did not define."""
    plain = inspect.unwrap(function)
    plain = getattr(plain, "__func__", plain)
    found: CodeType | None = getattr(plain, "__code__", None)
    return found
