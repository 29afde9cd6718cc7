"""Torch code that asks for float32 by name, made to compute in float64.

Apart from `golden.py`, which prepares a model for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

_WIDER: dict[object, object] = {
    torch.float32: torch.float64,
    torch.float16: torch.float64,
    torch.bfloat16: torch.float64,
    torch.complex64: torch.complex128,
    torch.FloatTensor: torch.DoubleTensor,
    torch.HalfTensor: torch.DoubleTensor,
    torch.BFloat16Tensor: torch.DoubleTensor,
    "torch.FloatTensor": "torch.DoubleTensor",
}
_KEYS = tuple({type(key) for key in _WIDER})


class Float64Mode(TorchFunctionMode):
    """Rewrites every request for a lower floating-point dtype (``dtype=torch.float32``,
    ``.float()``) to float64.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch.Tensor.view:  # with a dtype it reinterprets bits
            return func(*args, **kwargs)
        args = tuple(_widened(a) for a in args)
        kwargs = {name: _widened(a) for name, a in kwargs.items()}
        replaced: Callable[..., Any] = _REPLACED.get(func, func)
        return replaced(*args, **kwargs)


def _widened(argument: Any) -> Any:
    return _WIDER.get(argument, argument) if isinstance(argument, _KEYS) else argument


def _grouped_mm(
    rows: torch.Tensor,
    weights: torch.Tensor,
    *,
    offs: torch.Tensor,
    bias: torch.Tensor | None = None,
    **_options: Any,
) -> torch.Tensor:
    """Mixture-of-experts product of (tokens, in) and (experts, in, out), tokens sorted by expert.

    ``offs`` ends each expert's tokens. Torch's own kernel knows no float64.
    """
    out = rows.new_zeros(rows.shape[0], weights.shape[2])
    start = 0
    for weight, end in zip(weights, offs.tolist(), strict=True):
        out[start:end] = rows[start:end] @ weight
        start = end
    return out if bias is None else out + bias


_REPLACED: dict[object, Callable[..., torch.Tensor]] = {
    torch.Tensor.float: torch.Tensor.double,
    torch.Tensor.half: torch.Tensor.double,
    torch.Tensor.bfloat16: torch.Tensor.double,
    getattr(torch, "_grouped_mm", None): _grouped_mm,
}


@contextmanager
def float64() -> Iterator[None]:
    """Inside, new tensors are float64, requests for less are rewritten, and autocast is off."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with Float64Mode():
            yield
    finally:
        torch.set_default_dtype(default)
