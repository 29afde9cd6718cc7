"""Parameters converted to another dtype at the moment of use, so that no second copy of a model's weights exists.

Apart from `golden.py`, which knows what a precision is. Fresh memory is what a converted copy costs most (its pages
cost as much time as a product with 128 rows), so that linear layers convert into one buffer, a piece at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

_PIECE = 1 << 20
"""Elements of a weight that are converted at once: in float64 they stay in a core's caches."""
_CONTAINERS = (list, tuple)
_COPIES = ("T", "mT", "H", "mH", "data", "real", "imag")
"""Attributes of a tensor that are tensors; every other one describes it."""
_DESCRIBING = frozenset(
    getattr(torch.Tensor, name)
    for name in (
        *("size", "dim", "numel", "nelement", "stride", "storage_offset", "is_contiguous"),
        *("data_ptr", "untyped_storage", "get_device", "is_floating_point", "is_complex"),
        *("is_inference", "is_conj", "is_neg", "__len__"),
    )
)
_DTYPE = torch.Tensor.dtype.__get__  # type: ignore[attr-defined]  # a getter of C

Cast = Callable[[torch.Tensor, torch.dtype], torch.Tensor]


class ConvertedParameters(TorchFunctionMode):
    """Inside, every torch function sees the given parameters in the dtypes given for them.

    The parameters themselves are left alone. Code that passes them to compiled extensions without going through
    torch's functions still sees the originals.
    """

    def __init__(self, dtypes: Mapping[torch.nn.Parameter, torch.dtype], cast: Cast) -> None:
        """``cast`` converts one tensor; elements do not depend on their neighbours."""
        super().__init__()
        self._dtypes = {id(parameter): dtype for parameter, dtype in dtypes.items()}
        self._kept = list(dtypes)  # alive, so that their ids stay theirs
        self._cast = cast
        self._buffers: dict[torch.dtype, torch.Tensor] = {}

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if not self._concerns(args) and not self._concerns(kwargs.values()):
            return func(*args, **kwargs)
        if getattr(func, "__name__", "") == "__get__":
            return self._attribute(func, args)
        if func in _DESCRIBING:
            return func(*args, **kwargs)
        if func is F.linear:
            return self._linear(*args, **kwargs)
        if func is F.embedding and (args[3] if len(args) > 3 else kwargs.get("max_norm")) is None:
            return self._embedding(*args, **kwargs)
        if func is torch.Tensor.__getitem__ and id(args[0]) in self._dtypes:
            return self._cast(func(*args), self._dtypes[id(args[0])])
        return func(
            *map(self._converted, args), **{k: self._converted(v) for k, v in kwargs.items()}
        )

    def _concerns(self, arguments: Iterable[Any]) -> bool:
        dtypes = self._dtypes
        for argument in arguments:  # asked of every torch function: a loop costs a third of any()
            if id(argument) in dtypes:
                return True
            if isinstance(argument, _CONTAINERS) and any(id(m) in dtypes for m in argument):
                return True
        return False

    def _converted(self, argument: Any) -> Any:
        dtype = self._dtypes.get(id(argument))
        if dtype is not None:
            return self._cast(argument.detach(), dtype)
        if type(argument) in (list, tuple):
            return type(argument)(map(self._converted, argument))
        return argument

    def _attribute(self, func: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        if func == _DTYPE:
            return self._dtypes[id(args[0])]
        descriptor = getattr(func, "__self__", None)
        return func(*(map(self._converted, args) if _name(descriptor) in _COPIES else args))

    def _embedding(self, ids: torch.Tensor, weight: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """Rows are looked up before they are converted."""
        dtype = self._dtypes.get(id(weight))
        if dtype is None:
            return F.embedding(ids, weight, *args, **kwargs)
        return self._cast(F.embedding(ids, weight.detach(), *args, **kwargs), dtype)

    def _linear(
        self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
    ) -> torch.Tensor:
        dtype, bias = self._dtypes.get(id(weight)), self._converted(bias)
        if dtype is None or not _is_plain(weight):
            return F.linear(self._converted(x), self._converted(weight), bias)
        step = _PIECE // weight.shape[1]
        if weight.shape[0] <= step:
            return F.linear(x, self._piece(weight.detach(), dtype), bias)
        out = x.new_empty((*x.shape[:-1], weight.shape[0]))
        for start in range(0, weight.shape[0], step):
            rows = slice(start, start + step)
            part = self._piece(weight.detach()[rows], dtype)
            out[..., rows] = F.linear(x, part, None if bias is None else bias[rows])
        return out

    def _piece(self, weight: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """``weight`` as ``dtype``, until the next call."""
        if weight.numel() and torch.finfo(weight.dtype).max > torch.finfo(dtype).max:
            low, high = torch.aminmax(weight)
            if not -torch.finfo(dtype).max <= low <= high <= torch.finfo(dtype).max:
                return self._cast(weight, dtype)
        buffer = self._buffers.get(dtype)
        if buffer is None or buffer.device != weight.device:
            buffer = torch.empty(_PIECE, dtype=dtype, device=weight.device)
            self._buffers[dtype] = buffer
        return buffer[: weight.numel()].view(weight.shape).copy_(weight)


def _is_plain(weight: torch.Tensor) -> bool:
    """Whether ``weight`` is a matrix of real numbers of which at least one row fits in a piece."""
    return weight.ndim == 2 and weight.is_floating_point() and 0 < weight.shape[1] <= _PIECE


def _name(descriptor: object) -> str:
    return str(getattr(descriptor, "__name__", ""))
