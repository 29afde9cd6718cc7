"""Front end for plain functions: what the functions in the user's own files receive and return.

Without modules there is nothing to patch, and nobody wants to edit a model to look at it. While the
model is being traced, `sys.setprofile` tells of every Python call; a tap whose result nobody uses
survives tracing, so looking is enough. Paths are call stacks below the subject's call:
`forward.layer.attention`; a call in a Python loop is numbered (`repeats`): `forward.layer.0.attention`.
"""

from __future__ import annotations

import contextlib
import inspect
import sys
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING, Any

from firstdiff.tracer.calls import restore_profiler
from firstdiff.tracer.jax import compat
from firstdiff.tracer.jax.frontend import FALLBACK, Split, split_pytree
from firstdiff.tracer.jax.repeats import Repeat, stands_in_loop
from firstdiff.tracer.jax.tap import TapKey, dotted, new_serial, tap_tree

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from types import CodeType, FrameType

    from firstdiff.traces.schema import Site

_SUSPENDING = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR
_PYTREE = ("tree_flatten", "tree_unflatten", "tree_flatten_with_keys")
_FOREIGN = (
    str(Path(__file__).parents[1]),
    str(Path(contextlib.__file__).parent),
    *(sysconfig.get_paths()[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")),
)
_LAMBDA = "<lambda>"
_INTERACTIVE = ("<stdin>", "<ipython")


class FunctionsFrontEnd:
    """Taps on every function that is defined beside the subject's call, in its directory or
    package.

    Libraries, lambdas and generators are left out, and so are values that depend on parameters
    alone: a function's weights are no activations. What is tapped is only observed; to plant a value,
    the program is made to read the tap (`threaded`).
    """

    name = FALLBACK

    def handles(self, model: Any) -> bool:
        """Everything: this is the front end for models that no other one recorded."""
        del model
        return True

    @contextlib.contextmanager
    def installed(self, model: Any) -> Iterator[Any]:
        """Watch calls in this thread while inside; a profiler that was set before is told of every
        call too, and set again afterwards."""
        before = sys.getprofile()
        sys.setprofile(_Watcher(before))
        try:
            yield model
        finally:
            restore_profiler(before)

    def split(self, model: Any) -> Split:
        """The tree's arrays."""
        return split_pytree(model)

    def modules(self, model: Any, module: Any = None) -> Sequence[tuple[str, str]]:
        """None: functions are known when they are called."""
        del model, module
        return []

    def aliases(self, model: Any) -> Mapping[str, tuple[str, ...]]:
        """None."""
        del model
        return {}


class _Call:
    """A call that is running in the user's files.

    Its path is in the capture token meanwhile: a jitted helper is traced once for every caller, and
    not named after the first.
    """

    def __init__(
        self, frame: FrameType, path: str, token: Any, caller: _Call | None = None
    ) -> None:
        self.frame = frame
        self.path = path
        self.serial = new_serial()
        self.repeats = self._repeated(caller) if caller is not None else ()
        self._named = contextlib.ExitStack()
        self._named.enter_context(compat.capturing((token[0], path)))
        inside = getattr(token[0], "inside", None)
        if inside is not None:
            self._named.enter_context(inside.scope(self.serial, path))

    def _repeated(self, caller: _Call) -> tuple[Repeat, ...]:
        """The caller's, and this call where it stands in a loop."""
        site = caller.frame.f_lasti
        if not stands_in_loop(caller.frame.f_code, site):
            return caller.repeats
        return (*caller.repeats, Repeat(self.path.count(".") + 1, site, self.serial))

    def close(self) -> None:
        self._named.close()

    def tap(self, site: Site, leaf: str, value: Any) -> None:
        key = TapKey(
            self.path,
            site,
            leaf,
            front_end=FALLBACK,
            serial=self.serial,
            weights=False,
            observed=True,
            repeats=self.repeats,
        )
        tap_tree(value, key)


class _Watcher:
    """The profile function: taps arguments and results of the user's functions."""

    def __init__(self, before: Any) -> None:
        self._before: Callable[..., Any] | None = before if callable(before) else None
        self._calls: list[_Call] = []
        self._home: Path | str | None = None
        self._known: dict[CodeType, bool] = {}
        self._busy = False

    def __call__(self, frame: FrameType, event: str, arg: Any) -> None:
        if self._before is not None:
            self._before(frame, event, arg)
        if self._busy or event not in ("call", "return"):
            return
        self._busy = True
        try:
            if event == "return":
                self._leave(frame, arg)
            elif (token := compat.capture_token()) and self._is_users(frame.f_code):
                self._enter(frame, token)
        finally:
            self._busy = False

    def _enter(self, frame: FrameType, token: Any) -> None:
        """The first call is the subject's own: the capture records it as a whole, and it adds
        nothing to paths."""
        if not self._calls:
            self._calls.append(_Call(frame, "", token))
            inside = getattr(token[0], "inside", None)
            if inside is not None:
                inside.caller = self._running
            return
        if frame.f_code.co_name == _LAMBDA:
            return
        caller = self._calls[-1]
        call = _Call(frame, dotted(caller.path, _segment(frame.f_code)), token, caller)
        self._calls.append(call)
        for name, value in _arguments(frame):
            call.tap("input", name, value)

    def _running(self) -> tuple[str, tuple[Repeat, ...]]:
        """Path of the innermost call, and the repeated calls around it."""
        return (self._calls[-1].path, self._calls[-1].repeats) if self._calls else ("", ())

    def _leave(self, frame: FrameType, result: Any) -> None:
        if not self._calls or self._calls[-1].frame is not frame:
            return
        call = self._calls.pop()
        call.close()
        if self._calls and result is not None:
            call.tap("output", "", result)

    def _is_users(self, code: CodeType) -> bool:
        if code not in self._known:
            self._known[code] = _is_plain_function(code) and self._is_near(code.co_filename)
        return self._known[code]

    def _is_near(self, file: str) -> bool:
        """Whether ``file`` belongs to the subject. The first file that could tells where that is
        at home."""
        interactive = file.startswith(_INTERACTIVE)
        if file.startswith(_FOREIGN) or (file.startswith("<") and not interactive):
            return False
        if self._home is None:
            self._home = file if interactive else _package(Path(file).resolve())
        if interactive or isinstance(self._home, str):
            return interactive
        return Path(file).resolve().is_relative_to(self._home)


def _is_plain_function(code: CodeType) -> bool:
    name = code.co_name
    if name.startswith("<") or name in _PYTREE or code.co_flags & _SUSPENDING:
        return name == _LAMBDA
    dunder = name.startswith("__") and name.endswith("__") and name != "__call__"
    return bool(code.co_flags & inspect.CO_OPTIMIZED) and not dunder


def _package(file: Path) -> Path:
    """The directory of ``file``, or of the outermost package that it belongs to."""
    home = file.parent
    while (home / "__init__.py").exists() and (home.parent / "__init__.py").exists():
        home = home.parent
    return home


def _segment(code: CodeType) -> str:
    """The function's name; the class's for `__call__`."""
    if code.co_name == "__call__":
        return code.co_qualname.split(".")[-2]
    return code.co_name


def _arguments(frame: FrameType) -> Iterator[tuple[str, Any]]:
    found = inspect.getargvalues(frame)
    for name in (*found.args, found.varargs):
        if name is not None:
            yield name, found.locals.get(name)
    if found.keywords is not None:
        for name, value in found.locals.get(found.keywords, {}).items():
            yield name, value
