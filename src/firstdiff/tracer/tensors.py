"""A torch tensor as a storage array.

Apart, because dtypes that numpy lacks and layouts that have no bytes meet here.
"""

from __future__ import annotations

import numpy as np
import torch

_BITS: dict[str, tuple[torch.dtype, type[np.generic]]] = {
    "bfloat16": (torch.int16, np.uint16),
    "float8_e4m3fn": (torch.uint8, np.uint8),
    "float8_e4m3fnuz": (torch.uint8, np.uint8),
    "float8_e5m2": (torch.uint8, np.uint8),
    "float8_e5m2fnuz": (torch.uint8, np.uint8),
    "float8_e8m0fnu": (torch.uint8, np.uint8),
}


class Unrecordable(Exception):
    """A tensor has no dense values on any device; the message says what it is."""


def dtype_name(dtype: torch.dtype) -> str:
    """Logical name of a torch dtype: `float32`, `bfloat16`, `float8_e4m3fn`."""
    return str(dtype).removeprefix("torch.")


def storage_array(tensor: torch.Tensor) -> tuple[np.ndarray, str]:
    """The values of ``tensor`` as a C-contiguous storage array, with their logical dtype.

    A contiguous CPU tensor is not copied: the array is a view of live memory. bfloat16 and float8
    come as unsigned bits. Raises `Unrecordable` for meta, sparse, quantised and nested tensors and
    for dtypes that have no numpy counterpart.
    """
    _refuse(tensor)
    dense = tensor.detach()
    if dense.is_conj() or dense.is_neg():
        dense = dense.resolve_conj().resolve_neg()
    if dense.device.type != "cpu":
        dense = dense.to("cpu")
    dense = dense.contiguous()
    name = dtype_name(dense.dtype)
    try:
        if name in _BITS:
            bits, unsigned = _BITS[name]
            return dense.view(bits).numpy().view(unsigned), name
        return dense.numpy(), name
    # functorch wrappers, subclasses, 4-bit and bits dtypes
    except (RuntimeError, TypeError) as error:
        raise Unrecordable(f"{name} tensor ({error})") from error


def torch_tensor(array: np.ndarray, dtype: str) -> torch.Tensor:
    """A CPU tensor of its own from a storage array and its logical dtype: the inverse of
    `storage_array`.
    """
    copy = np.array(array, order="C")
    if dtype in _BITS:
        signed = copy.view(np.int16) if copy.itemsize == 2 else copy
        return torch.from_numpy(signed).view(getattr(torch, dtype))
    return torch.from_numpy(copy)


def _refuse(tensor: torch.Tensor) -> None:
    kinds = {
        "meta tensor (no values)": tensor.is_meta,
        "nested tensor": tensor.is_nested,
        "quantised tensor": tensor.is_quantized,
        f"sparse tensor ({tensor.layout})": tensor.layout is not torch.strided,
    }
    for kind, is_so in kinds.items():
        if is_so:
            raise Unrecordable(kind)
