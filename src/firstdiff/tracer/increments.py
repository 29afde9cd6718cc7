"""Linear layers of a float64 run, by their increment over inputs for which the float64 result is known.

y(x) = y(x0) + W (x - x0): where x - x0 is no more than rounding, a float32 product is enough for it. Its own rounding
is 2**-24 of an increment that is itself the error to be measured, whatever its size. Costs a third of the float64
product, and no float64 copy of the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from firstdiff.traces.dtypes import widen
from firstdiff.traces.schema import Key

if TYPE_CHECKING:
    from firstdiff.tracer.forcing import Values
    from firstdiff.tracer.hooks import Recorder
    from firstdiff.traces import Trace
    from firstdiff.traces.schema import Activation


@dataclass(frozen=True)
class Base:
    """Inputs of linear layers, and their float64 results."""

    values: Values
    """Gives what was put in."""
    truth: Trace
    """What the float64 run computed, inputs before anything was put in their place."""
    forced: frozenset[Key]
    """What was put in."""

    @cached_property
    def _computed(self) -> dict[Key, Activation]:
        return {a.key: a for a in self.truth.activations}

    def pair(self, path: str, call: int, step: int) -> tuple[np.ndarray, np.ndarray] | None:
        """(input, float64 result) of one call of the linear layer ``path``; None when either is not known."""
        key = Key(path, "input", "input", "forward", call, step)
        result = self._computed.get(Key(path, "output", "", "forward", call, step))
        given = self._input(key)
        return None if given is None or result is None else (given, self.truth.stored(result))

    def _input(self, key: Key) -> np.ndarray | None:
        """What the layer received at ``key``."""
        if key in self.forced:
            given = self.values(key)
            return None if given is None else widen(*given)
        own = self._computed.get(key)
        return None if own is None else self.truth.values(own)


class Increments:
    """The float32 linear layers of a model, to be computed by their increments in float64 runs."""

    def __init__(self, model: nn.Module, base: Base) -> None:
        """To be made outside of any precision: keeps the weights as they are, without copying them."""
        self._base = base
        self._weights = {
            module: module.weight.detach()
            for module in model.modules()
            if type(module) is nn.Linear
            and "forward" not in vars(module)
            and module.weight.dtype is torch.float32
        }

    @contextmanager
    def used(self, recorder: Recorder) -> Iterator[None]:
        """Inside, these layers compute that way wherever ``recorder`` knows which call it is."""
        try:
            for module in self._weights:
                vars(module)["forward"] = self._forward(module, module.forward, recorder)
            yield
        finally:
            for module in self._weights:
                vars(module).pop("forward", None)

    def _forward(
        self, module: nn.Linear, plain: Callable[..., torch.Tensor], recorder: Recorder
    ) -> Callable[[torch.Tensor], torch.Tensor]:
        weight = self._weights[module]

        def forward(input: torch.Tensor) -> torch.Tensor:
            call = recorder.call_of(module)
            path = recorder.tree.paths.get(module)
            found = (
                self._base.pair(path, call, recorder.step) if call is not None and path else None
            )
            if found is None or input.dtype is not torch.float64:
                return plain(input)
            x, y = found
            if x.shape != tuple(input.shape) or y.dtype != np.float64:
                return plain(input)
            # Through numpy, because `torch.float32` means float64 in a float64 run.
            moved = np.empty(x.shape, np.float32)
            np.subtract(input.detach().cpu().numpy(), x, out=moved, casting="same_kind")
            added = F.linear(torch.from_numpy(moved).to(input.device), weight)
            return torch.from_numpy(y + added.cpu().numpy()).to(input.device)

        return forward
