"""Parameters and buffers of a torch module, as records whose values are read when they are asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from firstdiff.tracer.tensors import Unrecordable, dtype_name, storage_array
from firstdiff.traces.parameters import Kind, Parameter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy as np


def torch_parameters(model: Any) -> tuple[Parameter, ...]:
    """Every parameter and buffer of ``model``, shared ones once with their other names; () when it is no module.

    Buffers that a checkpoint does not hold (rotary tables) are `computed`. A state dict is taken too.
    """
    if (
        isinstance(model, dict)
        and model
        and all(isinstance(v, torch.Tensor) for v in model.values())
    ):
        return tuple(_record(name, tensor, "", "parameter", ()) for name, tensor in model.items())
    if not isinstance(model, torch.nn.Module):
        return ()
    aliases: dict[int, list[str]] = {}
    first: dict[int, tuple[str, torch.Tensor, str, Kind]] = {}
    for name, tensor, class_name, kind in _tensors(model):
        aliases.setdefault(id(tensor), []).append(name)
        first.setdefault(id(tensor), (name, tensor, class_name, kind))
    return tuple(_record(*found, tuple(aliases[key][1:])) for key, found in first.items())


def _tensors(model: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor, str, Kind]]:
    for path, module in model.named_modules(remove_duplicate=False):
        prefix = f"{path}." if path else ""
        class_name = type(module).__name__
        for name, parameter in module.named_parameters(recurse=False):
            yield prefix + name, parameter, class_name, "parameter"
        hidden = module._non_persistent_buffers_set
        for name, buffer in module.named_buffers(recurse=False):
            yield prefix + name, buffer, class_name, "computed" if name in hidden else "buffer"


def _record(
    name: str, tensor: torch.Tensor, class_name: str, kind: Kind, aliases: tuple[str, ...]
) -> Parameter:
    return Parameter(
        name,
        tuple(tensor.shape),
        dtype_name(tensor.dtype),
        _reader(name, tensor),
        class_name,
        "torch",
        kind,
        aliases,
    )


def _reader(name: str, tensor: torch.Tensor) -> Callable[[], np.ndarray]:
    def read() -> np.ndarray:
        from firstdiff.traces.errors import SubjectError

        try:
            return storage_array(tensor)[0]
        except Unrecordable as reason:
            raise SubjectError(f"{name}: {reason}; load the model's values first.") from None

    return read
