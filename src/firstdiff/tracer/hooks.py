"""Hooks on every module of a torch model, and the events that they emit.

Apart from `torch.py`, which runs a model inside them.
"""

from __future__ import annotations

import weakref
from collections import Counter
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from firstdiff.tracer.caches import CacheGrowth, is_cache
from firstdiff.tracer.events import Event
from firstdiff.tracer.leaves import Parameters, leaves
from firstdiff.tracer.module_tree import ModuleTree
from firstdiff.tracer.tensors import Unrecordable, storage_array
from firstdiff.traces.schema import Key, Site

if TYPE_CHECKING:
    from firstdiff.tracer.events import Sink
    from firstdiff.tracer.selection import Selection

_COLUMNS = 1021


@dataclass(frozen=True)
class _Seen:
    """What a recorded tensor looked like, to recognise it when it comes by again."""

    reference: weakref.ref[torch.Tensor]
    state: tuple[Any, ...]
    key: Key


class Recorder:
    """Emits an event for each tensor that a module receives or returns, while its hooks are
    attached.

    Use as a context manager; leaving it removes every hook, whatever happened inside. The hooks
    come after those of the user, so that values are recorded as the module really gets and gives
    them.
    """

    def __init__(self, model: nn.Module, sink: Sink, selection: Selection) -> None:
        self.tree = ModuleTree.of(model)
        """The model's modules."""
        self.notes: dict[str, None] = {}
        """Sentences about what could not be recorded, in order, each once."""
        self.recorded: set[str] = set()
        """Paths that emitted an event."""
        self.failure: BaseException | None = None
        """What the sink raised first: a model may swallow exceptions, a recording must not."""
        self._model = model
        self._sink = sink
        self._selection = selection
        self._handles: list[torch.utils.hooks.RemovableHandle] = []
        self._parameters: dict[nn.Module, Parameters] = {}
        self._calls: Counter[str] = Counter()
        self._running: list[tuple[nn.Module, int]] = []
        self._seen: dict[int, _Seen] = {}
        self._caches = CacheGrowth()
        self.step = 0
        """Index of the running forward pass, or of the last one."""
        self.functions: dict[str, str] = {}
        """Where the functions that were recorded are defined, `file:line` by `Key.method`."""
        self.emitting = False
        """Whether a tensor is being copied right now: operations that run are the recorder's own."""

    def __enter__(self) -> Recorder:
        try:
            for module, path in self.tree.paths.items():
                if self._is_hooked(module, path):
                    self._attach(module)
        except BaseException:
            self.detach()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.detach()

    def detach(self) -> None:
        """Remove every hook and forget every tensor."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._seen.clear()
        self._running.clear()

    def never_fired(self) -> tuple[str, ...]:
        """Selected modules that have a forward of their own and recorded nothing."""
        return tuple(
            path
            for module, path in self.tree.paths.items()
            if path not in self.recorded
            and getattr(type(module), "forward", None) is not nn.Module.forward
            and any(self._selection.wants(path, site) for site in self._selection.sites)
        )

    def _is_hooked(self, module: nn.Module, path: str) -> bool:
        if self.tree.is_compiled(path):
            if path in self.tree.compiled:
                self._note(f"{path or 'the model'}: compiled, so nothing inside is seen")
            return False
        wanted = any(self._selection.wants(path, site) for site in self._selection.sites)
        # A look into modules must know which one runs, recorded or not.
        return wanted or module is self._model or self._selection.level != "module"

    def _attach(self, module: nn.Module) -> None:
        self._parameters[module] = Parameters.of(module.forward)
        before = module.register_forward_pre_hook(self._before, with_kwargs=True)
        self._handles.append(before)
        # always_call: a forward that raises must end its call too, or later calls get wrong numbers.
        after = module.register_forward_hook(self._after, with_kwargs=True, always_call=True)
        self._handles.append(after)

    def _before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        path = self.tree.paths[module]
        if module is self._model and not self._running and self._calls:
            self.step += 1
            self._calls.clear()
        call = self._calls[path]
        self._calls[path] += 1
        self._running.append((module, call))
        if self._selection.wants(path, "input"):
            for name, value in self._parameters[module].bind(args, kwargs):
                self._emit(module, "input", call, name, value)

    def _after(self, module: nn.Module, _args: Any, _kwargs: Any, output: Any) -> None:
        call = self._end(module)
        if call is not None and self._selection.wants(self.tree.paths[module], "output"):
            self._emit(module, "output", call, "", output)

    def _end(self, module: nn.Module) -> int | None:
        """Take the innermost running call of ``module`` off the stack, with calls inside it that
        were cut short.
        """
        while self._running:
            running, call = self._running.pop()
            if running is module:
                return call
        return None

    def _emit(self, module: nn.Module, site: Site, call: int, name: str, value: object) -> None:
        for leaf, member in leaves(value, name):
            if isinstance(member, torch.Tensor):
                self._emit_tensor(module, site, call, leaf, member)
            elif is_cache(member):
                if module is self._model and site == "output":
                    for cache_leaf, part in self._caches.new(member, leaf):
                        if isinstance(part, torch.Tensor):
                            self._emit_tensor(module, site, call, cache_leaf, part)
            elif _holds_tensor(member):
                place = f"{self.tree.paths[module] or 'the model'} {site} {leaf}".rstrip()
                self._note(f"{place}: not recorded, {type(member).__name__} is no known container")

    def _emit_tensor(
        self, module: nn.Module, site: Site, call: int, leaf: str, tensor: torch.Tensor
    ) -> None:
        key = Key(self.tree.paths[module], site, leaf, "forward", call, self.step)
        if self.emit(key, tensor, type(module).__name__):
            self.recorded.add(key.path)

    @property
    def running(self) -> str | None:
        """Path of the module whose code runs now; None outside the model."""
        return self.tree.paths[self._running[-1][0]] if self._running else None

    def call_of(self, module: nn.Module) -> int | None:
        """Number of the call of ``module`` whose forward is on top; None when another module's is."""
        running, call = self._running[-1] if self._running else (None, 0)
        return call if running is module else None

    def emit(self, key: Key, tensor: torch.Tensor, class_name: str, source: str = "") -> bool:
        """Send the event of one tensor; False, with a note, when it has no values to record."""
        self.emitting = True
        try:
            dense = tensor.detach()  # a parameter in the precision of the run
            with _without_modes(tensor):
                array, dtype = storage_array(dense)
                same = self._same(tensor, array, key)
            given = self.is_given(key, tensor)
            self.send(
                Event(key, array, dtype, class_name, source=source, same_as=same, given=given)
            )
        except Unrecordable as reason:
            place = f"{key.path or 'the model'} {key.site} {key.leaf}".rstrip()
            self._note(f"{place}: not recorded, {reason}")
            return False
        finally:
            self.emitting = False
        return True

    def is_given(self, _key: Key, _tensor: torch.Tensor) -> bool:
        """Whether ``_tensor`` is a value that was put in its place at an earlier tap; never, here."""
        return False

    def send(self, event: Event) -> None:
        """Give ``event`` to the sink; what it raises is kept, in case the model swallows it."""
        try:
            self._sink(event)
        except BaseException as error:
            self.failure = self.failure or error
            raise

    def _same(self, tensor: torch.Tensor, array: np.ndarray, key: Key) -> Key | None:
        """Key under which this very tensor, unchanged, was recorded before; None (and remembered)
        when new.
        """
        if tensor.is_inference():
            return None  # no version counter: a change in place would go unnoticed
        place = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        state = (tensor._version, place, _fingerprint(array))
        seen = self._seen.get(id(tensor))
        if seen is not None and seen.reference() is tensor and seen.state == state:
            return seen.key
        self._seen[id(tensor)] = _Seen(weakref.ref(tensor), state, key)
        return None

    def _note(self, sentence: str) -> None:
        self.notes[sentence] = None


def _without_modes(tensor: torch.Tensor) -> AbstractContextManager[object]:
    """Inside, functions of plain tensors skip the modes of a precision: they cost more than reading the values."""
    plain = type(tensor) in (torch.Tensor, nn.Parameter)
    return torch._C.DisableTorchFunction() if plain else nullcontext()


def _fingerprint(array: np.ndarray) -> int:
    """Hash of column sums of the bytes read as integers, and the last bytes: a write that bypasses
    torch's version counter shows.

    Such writes go through `.data` or through an array that shares the memory. Runs at memory speed.
    """
    octets = array.reshape(-1).view(np.uint8)
    rows = octets.size // (8 * _COLUMNS)
    body = octets[: rows * 8 * _COLUMNS].view(np.uint64).reshape(rows, _COLUMNS)
    tail = octets[rows * 8 * _COLUMNS :].tobytes()
    return hash(tail if rows == 0 else np.add.reduce(body, axis=0).tobytes() + tail)


def _holds_tensor(value: object) -> bool:
    if isinstance(value, nn.Module) or not hasattr(value, "__dict__"):
        return False
    return any(isinstance(member, torch.Tensor) for member in vars(value).values())
