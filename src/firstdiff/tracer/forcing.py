"""Hooks that force given values into a torch model while it runs, and record what it computed itself.

Apart from `hooks.py`, which only looks. Inputs are overwritten in place, so that a local variable of the
caller (`residual = hidden_states`) holds the forced value as well; otherwise one wrong residual would show
twice. Results are replaced by new tensors: a module may return its own argument, a buffer or a view.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from firstdiff.tracer.golden import cast
from firstdiff.tracer.hooks import Recorder
from firstdiff.tracer.tensors import torch_tensor
from firstdiff.traces.schema import Key, Site

if TYPE_CHECKING:
    import numpy as np

    from firstdiff.tracer.events import Sink
    from firstdiff.tracer.selection import Selection

Values = Callable[[Key], "tuple[np.ndarray, str] | None"]
"""The storage array and logical dtype to force at a key, None to leave the model's own."""
_ACCUMULATOR = 2.0**-24
"""Unit roundoff of what products are summed in, for bfloat16 as well."""


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
        self._random = torch.Generator().manual_seed(seed) if perturb else None
        self._seen_now: list[tuple[Key, torch.Tensor]] = []
        self._owned: set[int] = set()

    def __enter__(self) -> Forcer:
        tensors = [*self._model.parameters(), *self._model.buffers()]
        self._owned = {_memory(t) for t in tensors if not t.is_meta}
        super().__enter__()
        return self

    def _before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self._seen_now = []
        super()._before(module, args, kwargs)
        changed: dict[int, torch.Tensor] = {}
        for key, tensor in self._seen_now:
            value = self._replacement(key, tensor, module)
            if value is not None and not self._overwritten(tensor, value):
                changed[id(tensor)] = value
        return (substituted(args, changed), substituted(kwargs, changed)) if changed else None

    def _after(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        self._seen_now = []
        super()._after(module, args, kwargs, output)
        changed = {}
        for key, tensor in self._seen_now:
            value = self._replacement(key, tensor, None)
            if value is not None:
                changed[id(tensor)] = value
        return substituted(output, changed) if changed else None

    def _emit_tensor(
        self, module: nn.Module, site: Site, call: int, leaf: str, tensor: torch.Tensor
    ) -> None:
        super()._emit_tensor(module, site, call, leaf, tensor)
        key = Key(self.tree.paths[module], site, leaf, "forward", call, self.step)
        self._seen_now.append((key, tensor))

    def _replacement(
        self, key: Key, tensor: torch.Tensor, module: nn.Module | None
    ) -> torch.Tensor | None:
        """The value to go on with instead of ``tensor``, which ``module`` receives (None: a result)."""
        given = self._values(key)
        if given is None or given[0].shape != tuple(tensor.shape):
            return None
        value = torch_tensor(*given).to(tensor.device)
        if value.is_floating_point() != tensor.is_floating_point():
            return None
        value = cast(value, tensor.dtype) if tensor.is_floating_point() else value.to(tensor.dtype)
        self.forced.add(key)
        if self._random is None or not tensor.is_floating_point():
            return value
        signs = torch.randint(0, 2, tuple(value.shape), generator=self._random).to(value) * 2 - 1
        return value * (1 + amplitude(module) * signs)

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
