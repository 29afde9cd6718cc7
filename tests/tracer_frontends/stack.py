"""A stack of blocks, `x + down(tanh(up(x)))`, and what each block computes, by numpy alone.

Every framework's stack has these weights and runs in all ways that people run models in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

LAYERS, WIDTH, HIDDEN = 3, 4, 8
WAYS = ("eager", "jit", "warm", "scan", "remat", "vmap", "cond", "steps")
SHARDED_WAYS = ("shard_map", "sharded", "explicit")
FRAMEWORKS = ("linen", "nnx", "equinox", "haiku", "keras", "functions")

Where = Callable[[int, str], tuple[str, int]]


@dataclass(frozen=True)
class Subject:
    """A stack as it is captured."""

    model: Any
    call: Callable[..., Any]
    where: Where
    """(path, call index) of the n-th block that runs, or of its `up` or `down`."""
    order: Sequence[int] = tuple(range(LAYERS))
    """Which layer's weights the n-th block has."""


def stack_weights() -> dict[str, np.ndarray]:
    """float32 weights, stacked over layers; no two layers, rows or columns are alike."""
    rng = np.random.default_rng(7)
    shapes = {
        "up_w": (LAYERS, WIDTH, HIDDEN),
        "up_b": (LAYERS, HIDDEN),
        "down_w": (LAYERS, HIDDEN, WIDTH),
        "down_b": (LAYERS, WIDTH),
    }
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def stack_input(seed: int = 0) -> np.ndarray:
    """float32 [4, WIDTH], its sum positive."""
    x = np.random.default_rng(seed).normal(size=(4, WIDTH)).astype(np.float32)
    return x + 1


def computed(
    weights: Mapping[str, np.ndarray], x: np.ndarray, order: Sequence[int]
) -> dict[tuple[int, str, str], np.ndarray]:
    """What blocks compute in float64, by (n-th block that runs, part, site); part "" is the block
    itself."""
    found: dict[tuple[int, str, str], np.ndarray] = {}
    x = x.astype(np.float64)
    for place, layer in enumerate(order):
        found[place, "", "input"] = found[place, "up", "input"] = x
        up = x @ weights["up_w"][layer] + weights["up_b"][layer]
        found[place, "up", "output"] = up
        found[place, "down", "input"] = np.tanh(up)
        down = np.tanh(up) @ weights["down_w"][layer] + weights["down_b"][layer]
        found[place, "down", "output"] = down
        found[place, "", "output"] = x = x + down
    return found


def largest_error(
    recorded: Any, subject: Subject, weights: Mapping[str, np.ndarray], x: np.ndarray, step: int = 0
) -> float:
    """Largest relative L2 error over everything that the blocks compute; NaN spreads."""
    errors = []
    for (place, part, site), truth in computed(weights, x, subject.order).items():
        path, call = subject.where(place, part)
        value = recorded.value(path, site, None, call=call, step=step).reshape(truth.shape)
        errors.append(np.linalg.norm(value - truth) / np.linalg.norm(truth))
    return float(np.max(errors))


def dotted(place: int, part: str) -> tuple[str, int]:
    """`layers.1.up`, first call: how most frameworks spell it."""
    return f"layers.{place}" + (f".{part}" if part else ""), 0
