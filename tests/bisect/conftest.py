"""What the bisections are asked about: the tiny checkpoint, and a deep torch pair made to order."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from firstdiff.models.subject import Subject
from firstdiff.recording import record

BLOCKS = 24


class Block(torch.nn.Module):
    """A residual block. ``scale`` 1 is right; ``turned`` keeps the stream rotated until the next block undoes it."""

    def __init__(
        self, number: int, scale: float = 1.0, turned: bool = False, undo: bool = False
    ) -> None:
        super().__init__()
        weights = np.random.default_rng(number).normal(0, 0.25, (16, 16)).astype(np.float32)
        self.mix = torch.nn.Linear(16, 16, bias=False)
        self.mix.weight.data = torch.from_numpy(weights)
        self.act = torch.nn.Tanh()
        self.scale, self.turned, self.undo = scale, turned, undo

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        hidden = hidden.flip(-1) if self.undo else hidden
        hidden = hidden + self.scale * self.act(self.mix(hidden))
        return hidden.flip(-1) if self.turned else hidden


class Deep(torch.nn.Module):
    """Twenty-four blocks and a head."""

    def __init__(self, wrong: dict[int, float] | None = None, turned: tuple[int, ...] = ()) -> None:
        super().__init__()
        wrong = wrong or {}
        self.layers = torch.nn.ModuleList(
            Block(n, wrong.get(n, 1.0), n in turned, n - 1 in turned) for n in range(BLOCKS)
        )
        self.head = torch.nn.Linear(16, 8, bias=False)
        weights = np.random.default_rng(99).normal(0, 0.25, (8, 16)).astype(np.float32)
        self.head.weight.data = torch.from_numpy(weights)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            hidden = layer(hidden)
        return self.head(hidden)


@pytest.fixture(scope="session")
def deep() -> Callable[..., Subject]:
    """Makes a subject of `Deep`."""

    def make(**options: object) -> Subject:
        return Subject(model=Deep(**options).eval(), name="deep")

    return make


@pytest.fixture(scope="session")
def deep_reference(deep: Callable[..., Subject], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The right deep model's trace with its float32 floor."""
    path = tmp_path_factory.mktemp("deep") / "ref.h5"
    inputs = {"hidden": np.random.default_rng(0).normal(size=(2, 12, 16)).astype(np.float32)}
    return record(deep(), path, inputs=inputs, floor=("float32",), verify=False).path
