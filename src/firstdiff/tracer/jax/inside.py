"""What happens inside the modules of a JAX model: the functions that they call, and every equation.

Apart from the front ends, which see modules, and shared by all of them. Functions are watched while the model is
traced (`calls.py`): a tap whose result nobody uses survives tracing, so looking is enough. Equations need no taps:
`survey` lists them, and name scopes tell in which module each was traced.
"""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from firstdiff.tracer.calls import (
    INSTALLED,
    Call,
    CallWatcher,
    arguments,
    home_of,
    is_function,
)
from firstdiff.tracer.jax import compat, tap

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import CodeType, FrameType

    from firstdiff.tracer.jax.repeats import Repeat
    from firstdiff.traces.schema import Level, Site

INSIDE = "inside"
"""`TapKey.front_end` of values below the level of modules."""
_MARK = "firstdiff_module_"
_MARKED = re.compile(rf"{_MARK}(\d+)")
_HERE = str(Path(__file__).parents[1])
_PYTREE = ("tree_flatten", "tree_unflatten", "tree_flatten_with_keys", "setup")


class Inside:
    """A look into the modules of one model, while it is being traced."""

    def __init__(self, level: Level) -> None:
        self.level = level
        """`function` or `op`."""
        self.paths: dict[int, str] = {}
        """Path of every traced module call, by its number in the name scopes."""
        self.begins = "*"
        """Name of the method that a module begins to run, until it does; `*` is the subject's call."""
        self.caller: Callable[[], tuple[str, tuple[Repeat, ...]]] = lambda: ("", ())
        """Path and enclosing repeated calls of the plain function that runs; where modules run, theirs counts."""
        self.watcher = _Functions(self)

    def running(self) -> tuple[str, tuple[Repeat, ...]]:
        """Path of the module or plain function whose code runs, and the repeated calls around it."""
        path = tap.current_scope()
        return (path, ()) if path else self.caller()

    def module_of(self, scopes: str) -> str:
        """Path of the module in whose call an equation with these name scopes was traced."""
        found = _MARKED.findall(scopes)
        return self.paths.get(int(found[-1]), "") if found else ""

    @contextlib.contextmanager
    def scope(self, serial: int, path: str) -> Iterator[None]:
        """Equations traced inside belong to the module at ``path``."""
        if self.level != "op":
            yield
            return
        self.paths[serial] = path
        with jax.named_scope(f"{_MARK}{serial}"):
            yield


@contextlib.contextmanager
def running(key: tap.TapKey) -> Iterator[None]:
    """A module's method runs inside: its own frame is no function, and what is traced is the module's."""
    token = compat.capture_token()
    inside = getattr(token[0], "inside", None) if token is not None else None
    if inside is None:
        yield
        return
    before, inside.begins = inside.begins, key.method
    try:
        with inside.scope(key.serial, key.path):
            yield
    finally:
        inside.begins = "" if before == key.method else before


@dataclass(frozen=True)
class _Entered:
    call: Call
    path: str
    repeats: tuple[Repeat, ...]
    serial: int


class _Functions(CallWatcher):
    """Taps the arguments and results of the functions in the model's own files.

    Those are the files beside the subject's call, in its directory or package, and those that define its modules.
    """

    def __init__(self, inside: Inside) -> None:
        super().__init__()
        self._inside = inside
        self._homes: set[str] = set()
        self._files: set[str] = set()
        self._known: dict[CodeType, bool] = {}

    def is_own(self, code: CodeType) -> bool:
        file = code.co_filename
        if code not in self._known:
            self._known[code] = file in self._files or self._is_near(file)
        return self._known[code]

    def counts(self, code: CodeType, frame: FrameType) -> bool:
        del frame
        if compat.capture_token() is None:
            return False
        if self._begins(code):
            self._inside.begins = ""
            self._settle(code)
            return False
        return is_function(code) and code.co_name not in _PYTREE and self.is_own(code)

    def _begins(self, code: CodeType) -> bool:
        """Whether ``code`` is that of the module, or of the subject's call, which begins to run."""
        begins = self._inside.begins
        if begins == "*":
            return self._belongs(code.co_filename)
        own = code.co_name == begins or (begins, code.co_name) == ("__call__", "call")  # Keras
        return own and not compat.is_framework(code.co_filename)

    def entered(self, call: Call, frame: FrameType) -> _Entered:
        found = _Entered(call, *self._inside.running(), tap.new_serial())
        for name, value in arguments(frame):
            if name != "self":
                self._tap(found, "input", name, value)
        return found

    def left(self, entered: _Entered, result: Any) -> None:
        if compat.capture_token() is not None:
            self._tap(entered, "output", "", result)

    def _settle(self, code: CodeType) -> None:
        """The model lives where ``code`` does: in its directory or package, or, installed, in its file."""
        file = code.co_filename
        if file in self._files:
            return
        self._files.add(file)
        if self._belongs(file):
            self._homes.add(str(home_of(file)))
        self._known.clear()

    def _belongs(self, file: str) -> bool:
        """Whether ``file`` is a person's own, not installed, not ours."""
        return not file.startswith((*INSTALLED, _HERE, "<"))

    def _is_near(self, file: str) -> bool:
        if not self._belongs(file):
            return False
        return any(Path(file).resolve().is_relative_to(home) for home in self._homes)

    def _tap(self, entered: _Entered, site: Site, leaf: str, value: Any) -> None:
        call = entered.call
        key = tap.TapKey(
            entered.path,
            site,
            leaf,
            call.method,
            call.caller,
            front_end=INSIDE,
            serial=entered.serial,
            plantable=False,
            repeats=entered.repeats,
            source=call.source,
        )
        if isinstance(value, bool | int | float):
            tap.tap_leaf(jnp.asarray(value), key)
        elif value is not None and not _is_parameters(value):
            tap.tap_tree(value, key)


def _is_parameters(value: Any) -> bool:
    """Whether ``value`` is a module or another object that is no array and no plain container of arrays."""
    return not isinstance(value, jax.Array | list | tuple | dict) and not hasattr(
        type(value), "__dataclass_fields__"
    )
