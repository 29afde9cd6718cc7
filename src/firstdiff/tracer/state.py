"""What a forward pass may change besides its result: random state and buffers.

Apart, because every extra run must put it back.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import nn


@contextmanager
def preserved_rng() -> Iterator[Callable[[], None]]:
    """Gives a function that rewinds torch's random state; leaving restores the state that the first
    run left.

    The state after the first rewind-free run is what the user would have without any extra run.
    """
    start = _rng()
    end: list[list[torch.Tensor]] = []

    def rewind() -> None:
        if not end:
            end.append(_rng())
        _set_rng(start)

    try:
        yield rewind
    finally:
        if end:
            _set_rng(end[0])


def _rng() -> list[torch.Tensor]:
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return [torch.get_rng_state(), *cuda]


def _set_rng(state: list[torch.Tensor]) -> None:
    torch.set_rng_state(state[0])
    if len(state) > 1:
        torch.cuda.set_rng_state_all(state[1:])


@contextmanager
def preserved_buffers(model: nn.Module) -> Iterator[Callable[[], None]]:
    """Gives a function that rewinds every buffer of ``model``; leaving restores what the first run
    left.

    A forward pass may write into a buffer (batch statistics) or replace it (dynamic rotary
    frequencies).
    """
    start = _buffers(model)
    end: list[_Buffers] = []

    def rewind() -> None:
        if not end:
            end.append(_buffers(model))
        _set_buffers(start)

    try:
        yield rewind
    finally:
        if end:
            _set_buffers(end[0])


_Buffers = list[tuple["nn.Module", str, torch.Tensor, torch.Tensor]]


def _buffers(model: nn.Module) -> _Buffers:
    return [
        (module, name, buffer, buffer.detach().clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None and not buffer.is_meta
    ]


def _set_buffers(saved: _Buffers) -> None:
    with torch.no_grad():
        for module, name, buffer, content in saved:
            module._buffers[name] = buffer
            if not torch.equal(buffer, content):  # untouched ones keep their version
                buffer.copy_(content)
