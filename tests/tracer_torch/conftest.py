"""Sinks that keep copies, and small models whose weights tell modules apart."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import nn

from firstdiff.traces.schema import Key

if TYPE_CHECKING:
    from firstdiff.tracer.events import Event


class ListSink:
    """Keeps a copy of every event."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def __call__(self, event: Event) -> None:
        assert event.value.flags.c_contiguous
        self.events.append(dataclasses.replace(event, value=event.value.copy()))

    def names(self) -> list[Key]:
        return [e.key for e in self.events]

    def __getitem__(self, key: tuple[object, ...]) -> Event:
        """``sink[path, site, leaf, call, step]``, trailing ones optional."""
        path, site, leaf, *rest = *key, *("", 0, 0)[len(key) - 2 :]
        call, step = rest
        found = [e for e in self.events if e.key == Key(path, site, leaf, "forward", call, step)]
        assert len(found) == 1, f"{key}: {len(found)} events"
        return found[0]


@pytest.fixture
def sink() -> ListSink:
    return ListSink()


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def randomise(model: nn.Module, seed: int = 0) -> nn.Module:
    """Discriminating weights: no zero bias, no unit norm, query and key large enough to attend."""
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.ndim == 1:
                base = 1.0 if "norm" in name.lower() or ".ln_" in name else 0.0
                p.copy_(torch.tensor(base + 0.3 * rng.standard_normal(p.shape)))
            else:
                std = 0.25 if any(k in name for k in ("q_proj", "k_proj", "query", "key")) else 0.12
                p.copy_(torch.tensor(std * rng.standard_normal(p.shape)))
    return model.eval()


class Block(nn.Module):
    """Two linear layers around a ReLU in place, with a keyword argument and a tuple result."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(4, 8)
        self.act = nn.ReLU(inplace=True)
        self.down = nn.Linear(8, 4)

    def forward(self, x, scale=None, *, bias=None):
        h = self.down(self.act(self.up(x)))
        if scale is not None:
            h = h * scale
        if bias is not None:
            h = h + bias
        return x + h, {"delta": h, "nothing": None}


class Net(nn.Module):
    """Blocks called with positional and keyword arguments; the same block twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first = Block()
        self.second = Block()

    def forward(self, x, bias=None):
        x, _ = self.first(x, torch.tensor(2.0))
        x, _ = self.second(x, bias=bias)
        x, _ = self.second(x, scale=None)
        return x


@pytest.fixture
def net() -> Net:
    return randomise(Net())


@pytest.fixture(scope="session")
def tiny_qwen2():
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        vocab_size=128,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        attn_implementation="eager",
    )
    return randomise(Qwen2ForCausalLM(config))


@pytest.fixture(scope="session")
def tokens() -> dict[str, torch.Tensor]:
    """Two rows of 12 tokens, the second padded on the left by 4."""
    rng = np.random.default_rng(1)
    ids = torch.tensor(rng.integers(1, 128, (2, 12)))
    mask = torch.ones_like(ids)
    mask[1, :4] = 0
    return {"input_ids": ids, "attention_mask": mask}
