"""A small gated model in PyTorch and linen whose weights and names can be exchanged."""

from __future__ import annotations

from typing import Any
from zlib import crc32

import flax.linen as fnn
import jax
import numpy as np
import torch
from torch import nn

import firstdiff

HIDDEN, WIDE, VOCABULARY, LAYERS = 32, 48, 40, 2
RIGHT, EXCHANGED = ("gate_proj", "up_proj"), ("up_proj", "gate_proj")

State = dict[str, torch.Tensor]


class Mlp(nn.Module):
    """SwiGLU; ``names`` are what gate and up are called."""

    def __init__(self, names: tuple[str, str], gain: float) -> None:
        super().__init__()
        self.names, self.gain = names, gain
        for name in names:
            setattr(self, name, nn.Linear(HIDDEN, WIDE, bias=False))
        self.act_fn = nn.SiLU()
        self.down_proj = nn.Linear(WIDE, HIDDEN, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate, up = (getattr(self, name) for name in self.names)
        return self.down_proj(self.act_fn(gate(x)) * (self.gain * up(x)))


class Block(nn.Module):
    """Norm, MLP, residual."""

    def __init__(self, names: tuple[str, str], gain: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(HIDDEN)
        self.mlp = Mlp(names, gain)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.mlp(self.norm(x))


class Model(nn.Module):
    """Embedding, blocks, head."""

    def __init__(self, names: tuple[str, str] = RIGHT, gain: float = 1.0) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, HIDDEN)
        self.layers = nn.ModuleList([Block(names, gain) for _ in range(LAYERS)])
        self.head = nn.Linear(HIDDEN, VOCABULARY, bias=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embed(ids)
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


class FlaxMlp(fnn.Module):
    """The same in linen, without a module for the activation."""

    names: tuple[str, str]

    @fnn.compact
    def __call__(self, x: Any) -> Any:
        gate, up = (fnn.Dense(WIDE, use_bias=False, name=name)(x) for name in self.names)
        return fnn.Dense(HIDDEN, use_bias=False, name="down_proj")(jax.nn.silu(gate) * up)


class FlaxBlock(fnn.Module):
    """Norm, MLP, residual."""

    names: tuple[str, str]

    @fnn.compact
    def __call__(self, x: Any) -> Any:
        inner = fnn.LayerNorm(epsilon=1e-5, name="norm")(x)
        return x + FlaxMlp(self.names, name="mlp")(inner)


class FlaxModel(fnn.Module):
    """The same in linen; ``opaque`` gives modules names that say nothing, ``flat`` makes no blocks."""

    names: tuple[str, str] = RIGHT
    opaque: bool = False
    flat: bool = False

    @fnn.compact
    def __call__(self, ids: Any) -> Any:
        x = fnn.Embed(VOCABULARY, HIDDEN, name=renamed("embed", self.opaque))(ids)
        for n in range(LAYERS):
            if self.flat:
                inner = fnn.LayerNorm(epsilon=1e-5, name=f"norm_{n}")(x)
                x = x + FlaxMlp(self.names, name=f"mlp_{n}")(inner)
            else:
                x = FlaxBlock(self.names, name=renamed(f"layers_{n}", self.opaque))(x)
        return fnn.Dense(VOCABULARY, use_bias=False, name=renamed("head", self.opaque))(x)


def renamed(name: str, opaque: bool) -> str:
    """``name``, or one that says nothing."""
    return f"m{crc32(name.encode()) % 9973}" if opaque else name


def torch_subject(weights: State, **options: Any) -> firstdiff.Subject:
    """The PyTorch model with ``weights``."""
    model = Model(**options)
    model.load_state_dict(weights)
    return firstdiff.Subject(model=model, call=lambda m, ids: m(ids), name="torch")


def linen_subject(weights: State, **options: Any) -> firstdiff.Subject:
    """The linen model with ``weights``, kernels transposed; modules by the names of ``options``."""
    model = FlaxModel(**options)
    tree: dict[str, Any] = {}
    for name, value in weights.items():
        *path, leaf = name.split(".")
        if path[0] == "layers" and options.get("flat"):
            path = [f"{path[2]}_{path[1]}", *path[3:]]
        elif path[0] == "layers":
            path = [f"layers_{path[1]}", *path[2:]]
        path[0] = renamed(path[0], options.get("opaque", False))
        kernel = value.ndim == 2 and "embed" not in name
        leaf = (
            "kernel"
            if kernel
            else "embedding"
            if value.ndim == 2
            else {"weight": "scale"}.get(leaf, leaf)
        )
        into = tree
        for part in path:
            into = into.setdefault(part, {})
        into[leaf] = np.ascontiguousarray((value.T if kernel else value).numpy())
    return firstdiff.Subject(
        model=tree,
        call=lambda params, ids: model.apply({"params": params}, ids),
        framework="linen",
        name="linen",
    )


SUBJECTS = {"torch": torch_subject, "linen": linen_subject}


def exchanged(weights: State) -> State:
    """``weights`` with gate and up in each other's places."""
    other = {"gate_proj": "up_proj", "up_proj": "gate_proj"}
    return {
        ".".join(other.get(part, part) for part in name.split(".")): value
        for name, value in weights.items()
    }
