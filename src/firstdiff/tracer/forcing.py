"""Hooks that force given values into a torch model while it runs, and record what it computed itself.

Apart from `hooks.py`, which only looks. Inputs are overwritten in place, so that a local variable of the
caller (`residual = hidden_states`) holds the forced value as well; otherwise one wrong residual would show
twice. Results are replaced by new tensors: a module may return its own argument, a buffer or a view.
"""

from __future__ import annotations

import copy
import math
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from firstdiff.tracer.golden import cast
from firstdiff.tracer.hooks import Recorder
from firstdiff.tracer.tensors import torch_tensor
from firstdiff.traces.dtypes import widen
from firstdiff.traces.schema import Key, Site

if TYPE_CHECKING:
    from firstdiff.tracer.events import Sink
    from firstdiff.tracer.selection import Selection

Values = Callable[[Key], "tuple[np.ndarray, str] | None"]
"""The storage array and logical dtype to force at a key, None to leave the model's own."""
_ACCUMULATOR = 2.0**-24
"""Unit roundoff of what products are summed in, for bfloat16 as well."""
_BITS = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1)
"""The bits of every byte: a row of eight is looked up in less time than eight single ones."""


@dataclass(frozen=True)
class _Held:
    """What a tensor was made to hold."""

    tensor: weakref.ref[torch.Tensor]
    version: int
    source: tuple[Any, ...]


class Forcer(Recorder):
    """A recorder that replaces every value for which there is another, after it has been recorded.

    A value of another shape or kind than the model's own is left out. ``perturb`` moves every forced number
    by a few ulp, up or down by chance: 3 u, and sqrt(n)/2 u where it goes into a sum of n products, u = 2**-24.
    """

    def __init__(
        self,
        model: nn.Module,
        sink: Sink,
        selection: Selection,
        values: Values,
        *,
        perturb: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(model, sink, selection)
        self.forced: set[Key] = set()
        """Keys whose values were replaced."""
        self._values = values
        self._random = np.random.default_rng(seed) if perturb else None
        self._held: dict[int, _Held] = {}
        self._seen_now: list[tuple[Key, torch.Tensor]] = []
        self._owned: set[int] = set()

    def __enter__(self) -> Forcer:
        tensors = [*self._model.parameters(), *self._model.buffers()]
        self._owned = {_memory(t) for t in tensors if not t.is_meta}
        super().__enter__()
        return self

    def detach(self) -> None:
        super().detach()
        self._held.clear()

    def _before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self._seen_now = []
        super()._before(module, args, kwargs)
        changed: dict[int, torch.Tensor] = {}
        for key, tensor in self._seen_now:
            given = self._given(key, tensor)
            if given is None or self._holds(tensor, given, moved := amplitude(module)):
                continue
            value = self._converted(given, tensor, moved)
            if self._overwritten(tensor, value):
                self._hold(tensor, given, moved)
            else:
                changed[id(tensor)] = value
                self._hold(value, given, moved)
        return (substituted(args, changed), substituted(kwargs, changed)) if changed else None

    def _after(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        self._seen_now = []
        super()._after(module, args, kwargs, output)
        changed, moved = {}, amplitude(None)
        for key, tensor in self._seen_now:
            given = self._given(key, tensor)
            if given is not None and not self._holds(tensor, given, moved):
                value = self._converted(given, tensor, moved)
                changed[id(tensor)] = value
                self._hold(value, given, moved)
        return substituted(output, changed) if changed else None

    def _emit_tensor(
        self, module: nn.Module, site: Site, call: int, leaf: str, tensor: torch.Tensor
    ) -> None:
        super()._emit_tensor(module, site, call, leaf, tensor)
        key = Key(self.tree.paths[module], site, leaf, "forward", call, self.step)
        self._seen_now.append((key, tensor))

    def is_given(self, key: Key, tensor: torch.Tensor) -> bool:
        given = self._values(key) if id(tensor) in self._held and self._random is None else None
        return given is not None and self._holds(tensor, given, amplitude(None))

    def _given(self, key: Key, tensor: torch.Tensor) -> tuple[np.ndarray, str] | None:
        """What is to go on instead of ``tensor``; None to leave it."""
        given = self._values(key)
        if given is None or given[0].shape != tuple(tensor.shape):
            return None
        kinds = given[1].startswith("complex"), given[1].startswith(("float", "bfloat"))
        if kinds != (tensor.is_complex(), tensor.is_floating_point()):
            return None
        self.forced.add(key)
        return given

    def _converted(
        self, given: tuple[np.ndarray, str], tensor: torch.Tensor, moved: float
    ) -> torch.Tensor:
        """``given`` in the dtype and on the device of ``tensor``, perturbed by ``moved`` where that is wanted."""
        if not tensor.is_floating_point():
            return torch_tensor(*given).to(tensor.device, tensor.dtype)
        if tensor.dtype is not torch.float64 and self._random is None:
            return cast(torch_tensor(*given).to(tensor.device), tensor.dtype)
        if self._random is None:
            value = np.array(widen(*given), np.float64, order="C")
        else:
            value = _perturbed(widen(*given), moved, self._random)
        return cast(torch.from_numpy(value).to(tensor.device), tensor.dtype)

    def _holds(self, tensor: torch.Tensor, given: tuple[np.ndarray, str], moved: float) -> bool:
        """Whether ``tensor`` already is the value ``given``: it was put there, and nothing wrote to it since."""
        held = self._held.get(id(tensor))
        return (
            held is not None
            and held.tensor() is tensor
            and held.version == tensor._version
            and held.source == self._source(given, moved)
        )

    def _hold(self, tensor: torch.Tensor, given: tuple[np.ndarray, str], moved: float) -> None:
        source = self._source(given, moved)
        if source is not None and not tensor.is_inference():
            self._held[id(tensor)] = _Held(weakref.ref(tensor), tensor._version, source)

    def _source(self, given: tuple[np.ndarray, str], moved: float) -> tuple[Any, ...] | None:
        """What names the value ``given``; None for an array whose memory others may get."""
        root: Any = given[0]
        while isinstance(root.base, np.ndarray):
            root = root.base
        if root.base is None:
            return None
        place = given[0].__array_interface__["data"][0], given[0].strides
        return place, given[0].shape, given[1], moved if self._random is not None else 0.0

    def _overwritten(self, tensor: torch.Tensor, value: torch.Tensor) -> bool:
        """Write ``value`` into ``tensor`` where nothing but activations can see it."""
        overlaps = any(s == 0 and n > 1 for s, n in zip(tensor.stride(), tensor.shape, strict=True))
        if overlaps or _memory(tensor) in self._owned:
            return False
        try:
            tensor.copy_(value)
        except (
            RuntimeError
        ):  # an inference tensor outside inference mode, memory that cannot be written
            return False
        return True


def _perturbed(value: np.ndarray, moved: float, random: np.random.Generator) -> np.ndarray:
    """``value`` in float64, each number times 1 + ``moved`` or 1 - ``moved``, by a bit of ``random``."""
    octets = random.integers(0, 256, value.size // 8 + 1, np.uint8)
    factors: np.ndarray = np.where(_BITS, 1 + moved, 1 - moved)[octets].reshape(-1)[: value.size]
    factors *= value.reshape(-1)
    return factors.reshape(value.shape)


def amplitude(module: nn.Module | None) -> float:
    """Relative perturbation of a value that ``module`` receives: backward error of a sum of n products."""
    weight = getattr(module, "weight", None)
    length = 0
    if isinstance(weight, torch.Tensor) and weight.ndim >= 2:
        turned = type(module).__name__ == "Conv1D"  # transformers' own, (in, out)
        length = weight.shape[0] if turned else weight[0].numel()
    return _ACCUMULATOR * max(3.0, 0.5 * math.sqrt(length))


def substituted(value: Any, changed: Mapping[int, torch.Tensor]) -> Any:
    """``value`` with the tensors of these ids replaced; containers on the way are new, others kept."""
    if isinstance(value, torch.Tensor):
        return changed.get(id(value), value)
    if isinstance(value, Mapping):
        new: Any = copy.copy(value)
        for name, member in value.items():
            other = substituted(member, changed)
            if other is not member:
                new[name] = other
        return new
    if isinstance(value, list | tuple):
        members = [substituted(member, changed) for member in value]
        return type(value)(*members) if hasattr(value, "_fields") else type(value)(members)
    if is_dataclass(value) and not isinstance(value, type):
        new = copy.copy(value)
        for field in fields(value):
            object.__setattr__(new, field.name, substituted(getattr(value, field.name), changed))
        return new
    return value


def _memory(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
