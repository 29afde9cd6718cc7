"""What happens inside the modules of a torch model: the functions they call, and every operation.

Apart from `hooks.py`, which sees modules, and needed only when a capture looks deeper. Functions are watched
(`calls.py`), operations are seen where PyTorch dispatches them; neither is patched.
"""

from __future__ import annotations

import sys
from collections import Counter
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from firstdiff.tracer.calls import (
    INSTALLED,
    Call,
    CallWatcher,
    arguments,
    code_of,
    function_name,
    home_of,
    is_function,
)
from firstdiff.tracer.events import Event
from firstdiff.tracer.leaves import leaves
from firstdiff.traces.schema import Key, Site

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import CodeType, FrameType

    from firstdiff.tracer.hooks import Recorder
    from firstdiff.tracer.selection import Selection

_TORCH = str(Path(torch.__file__).parent)
_OURS = str(Path(__file__).parent)
_SILENT = frozenset({"aten::detach", "aten::alias", "aten::lift_fresh", "prim::device"})
"""Operations that compute nothing and that nobody writes."""


@contextmanager
def inside(model: nn.Module, recorder: Recorder, selection: Selection) -> Iterator[dict[str, str]]:
    """Record below the level of modules while inside, as ``selection`` asks.

    Yields where each function that ran is defined, `file:line` by `Key.method`; it fills while the model runs.
    """
    if selection.level == "module":
        yield {}
        return
    watcher = _Functions(OwnCode(model), recorder, selection)
    with ExitStack() as stack:
        if selection.level == "op":
            stack.enter_context(_Operations(watcher, model))
        stack.enter_context(watcher)
        yield watcher.definitions.places


class OwnCode:
    """Which code is the model's own: the files that define its modules, and what lies beside them.

    Of an installed package (transformers) only those files, and the functions that they call directly elsewhere in
    that package, such as `create_causal_mask` or the attention function of a table.
    """

    def __init__(self, model: nn.Module) -> None:
        classes = {type(module) for module in model.modules()}
        codes = [code_of(cls.forward) for cls in classes]
        self.forwards = {code for code in codes if code is not None}
        """The code of the modules' own forwards, which are recorded as modules."""
        files = {code.co_filename for code in self.forwards}
        self._files = {file for file in files if not file.startswith(_TORCH)}
        installed = {file for file in self._files if file.startswith(INSTALLED)}
        self._homes = tuple({str(home_of(file)) for file in self._files - installed})
        self._packages = tuple({str(home_of(file)) for file in installed})
        self._known: dict[CodeType, bool] = {}

    def own(self, code: CodeType) -> bool:
        """Whether ``code`` lies in a file of the model."""
        if code not in self._known:
            self._known[code] = self._is_own(code.co_filename)
        return self._known[code]

    def _is_own(self, file: str) -> bool:
        if file in self._files:
            return True
        if file.startswith((*INSTALLED, _OURS, "<")):
            return False
        return str(Path(file).resolve()).startswith(self._homes) if self._homes else False

    def called(self, code: CodeType, frame: FrameType) -> bool:
        """Whether the function that ``frame`` runs is one of the package that the model's own code calls directly."""
        caller = frame.f_back
        if caller is None or not code.co_filename.startswith(self._packages or ("\0",)):
            return False
        return "<locals>" not in code.co_qualname and self._calls(caller)

    def _calls(self, caller: FrameType) -> bool:
        """Whether ``caller`` is the model's own, or a decorator's wrapper that is called from there."""
        above = caller.f_back
        wrapper = "<locals>" in caller.f_code.co_qualname
        return self.own(caller.f_code) or (wrapper and above is not None and self.own(above.f_code))


@dataclass(frozen=True)
class _Entered:
    """A recorded call that is running."""

    call: Call
    path: str
    number: int


class _Functions(CallWatcher):
    """Emits the arguments and results of the model's own functions."""

    def __init__(self, code: OwnCode, recorder: Recorder, selection: Selection) -> None:
        super().__init__()
        self.recorder, self.selection = recorder, selection
        self._code = code
        self._numbers: Counter[tuple[int, str, str]] = Counter()
        self._functions: dict[CodeType, bool] = {}

    def is_own(self, code: CodeType) -> bool:
        return self._code.own(code)

    def counts(self, code: CodeType, frame: FrameType) -> bool:
        if self.recorder.emitting or code in self._code.forwards:
            return False
        if code not in self._functions:
            self._functions[code] = is_function(code)
        if not self._functions[code]:
            return False
        path = self.recorder.running
        if path is None or not self.selection.looks_into(path):
            return False
        return self._code.own(code) or self._code.called(code, frame)

    def entered(self, call: Call, frame: FrameType) -> _Entered:
        path = self.recorder.running or ""
        found = _Entered(call, path, self.next_number(path, call.method))
        if "input" in self.selection.sites:
            for name, value in arguments(frame):
                self._emit(found, "input", name, value)
        return found

    def left(self, entered: _Entered, result: Any) -> None:
        if "output" in self.selection.sites:
            self._emit(entered, "output", "", result)

    def next_number(self, path: str, method: str) -> int:
        """Call index of the next call of ``method`` in the module at ``path``, in this step."""
        counted = (self.recorder.step, path, method)
        self._numbers[counted] += 1
        return self._numbers[counted] - 1

    def _emit(self, entered: _Entered, site: Site, name: str, value: Any) -> None:
        call = entered.call
        for leaf, member in _members(value, name):
            key = Key(entered.path, site, leaf, call.method, entered.number, self.recorder.step)
            if isinstance(member, torch.Tensor):
                self.recorder.emit(key, member, call.caller, call.source)
            else:
                number = np.asarray(member)
                event = Event(key, number, str(number.dtype), call.caller, source=call.source)
                self.recorder.send(event)


def _members(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Tensors that are no parameters, and plain numbers, with their leaf names."""
    if isinstance(value, bool | int | float):
        yield name, value
        return
    for leaf, member in leaves(value, name):
        if isinstance(member, torch.Tensor) and not isinstance(member, nn.Parameter):
            yield leaf, member


class _Operations(TorchDispatchMode):
    """Emits the results of every operation that PyTorch dispatches."""

    def __init__(self, functions: _Functions, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch leaves it without annotations
        self._functions, self._recorder = functions, functions.recorder
        self._owned = {_memory(parameter) for parameter in model.parameters()}

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        del types
        result = func(*args, **(kwargs or {}))
        path = self._recorder.running
        name = func._schema.name
        watched = path is not None and self._functions.selection.looks_into(path)
        if path is not None and watched and not self._recorder.emitting and name not in _SILENT:
            self._emit(path, name, result)
        return result

    def _emit(self, path: str, name: str, result: Any) -> None:
        caller, source = self._place()
        number = self._functions.next_number(path, name)
        for leaf, member in leaves(result):
            if isinstance(member, torch.Tensor) and _memory(member) not in self._owned:
                key = Key(path, "output", leaf, name, number, self._recorder.step)
                self._recorder.emit(key, member, caller, source)

    def _place(self) -> tuple[str, str]:
        """The function and the line of the model's own code that runs this operation; else of any library's."""
        frame: FrameType | None = sys._getframe(1)
        other = None
        while frame is not None:
            code = frame.f_code
            if self._functions.is_own(code):
                return function_name(code), f"{code.co_filename}:{frame.f_lineno}"
            if other is None and not code.co_filename.startswith((_TORCH, _OURS)):
                other = frame
            frame = frame.f_back
        if other is None:
            return "", ""
        return function_name(other.f_code), f"{other.f_code.co_filename}:{other.f_lineno}"


def _memory(tensor: torch.Tensor) -> int | None:
    """Address of the memory that ``tensor`` is a view of; None where it has none."""
    try:
        return tensor.untyped_storage().data_ptr() or None
    except (RuntimeError, NotImplementedError):  # sparse, meta, functorch wrappers
        return None
