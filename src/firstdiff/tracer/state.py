"""What a forward pass may change besides its result: random state, buffers, attributes of modules.

Apart, because every extra run (to check the output, to measure a noise floor) must put it back.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import nn


@dataclass(frozen=True)
class _ModuleState:
    """One module's attributes and buffers."""

    module: nn.Module
    attributes: dict[str, Any]
    buffers: dict[str, torch.Tensor | None]
    contents: dict[str, torch.Tensor]

    @classmethod
    def of(cls, module: nn.Module) -> _ModuleState:
        """Attributes by reference, buffers by value as well: a forward pass may write into one
        (batch statistics) or replace it (dynamic rotary frequencies, with the length they are for).
        """
        buffers = dict(module._buffers)
        contents = {
            name: buffer.detach().clone()
            for name, buffer in buffers.items()
            if buffer is not None and not buffer.is_meta
        }
        return cls(module, dict(module.__dict__), buffers, contents)

    def restore(self) -> None:
        """Put everything back; a buffer that did not change is not written to."""
        _make_equal(self.module.__dict__, self.attributes)
        _make_equal(self.module._buffers, self.buffers)
        for name, content in self.contents.items():
            buffer = self.buffers[name]
            if buffer is not None and not torch.equal(buffer, content):
                buffer.copy_(content)


def _make_equal(live: dict[str, Any], saved: dict[str, Any]) -> None:
    """Make ``live`` hold what ``saved`` holds, at no moment less than both."""
    for extra in live.keys() - saved.keys():
        del live[extra]
    live.update(saved)


class _State:
    """Random state of torch and state of every module of a model, at one moment."""

    def __init__(self, model: nn.Module) -> None:
        self._modules = [
            _ModuleState.of(module)
            for module in model.modules()
            if not isinstance(module, torch.jit.ScriptModule)  # its state is not in Python
        ]
        self._cpu = torch.get_rng_state()
        started = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]  # torch's, unannotated
        self._cuda = torch.cuda.get_rng_state_all() if started else []

    def restore(self) -> None:
        with torch.no_grad():
            for module in self._modules:
                module.restore()
        torch.set_rng_state(self._cpu)
        if self._cuda:
            torch.cuda.set_rng_state_all(self._cuda)


@contextmanager
def rewindable(model: nn.Module) -> Iterator[Callable[[], None]]:
    """Gives a function that puts ``model`` and the random state back to now, to run once more.

    Leaving puts back what was there before the first rewind: the user sees the effects of one run,
    not of the repeated ones.
    """
    start = _State(model)
    end: list[_State] = []

    def rewind() -> None:
        if not end:
            end.append(_State(model))
        start.restore()

    try:
        yield rewind
    finally:
        if end:
            end[0].restore()


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Leaving puts ``model`` (parameters apart) and the random state back as they were."""
    state = _State(model)
    try:
        yield
    finally:
        state.restore()
