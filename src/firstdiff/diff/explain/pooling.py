"""One vector for a whole text or image: which token is taken, or what is averaged."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from firstdiff.diff.explain.hypothesis import Change, Hypothesis
from firstdiff.diff.explain.scene import Scene, is_float

if TYPE_CHECKING:
    from firstdiff.traces.schema import Activation

NEAR = 24
"""Tensors before the wrong one among which the pooled one is looked for."""

Pool = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Tokens [b, t, e] and bool [b, t], True at real tokens -> [b, e]."""


def _last_real(x: np.ndarray, real: np.ndarray) -> np.ndarray:
    last = x.shape[1] - 1 - real[:, ::-1].argmax(axis=1)
    return np.asarray(x[np.arange(len(x)), last])


def _mean(x: np.ndarray, real: np.ndarray) -> np.ndarray:
    weights = real / np.maximum(real.sum(axis=1, keepdims=True), 1)
    return np.asarray((x * weights[..., None]).sum(axis=1))


POOLS: dict[str, Pool] = {
    "the first token": lambda x, _: x[:, 0],
    "the second token": lambda x, _: x[:, 1],
    "the last token": lambda x, _: x[:, -1],
    "the last real token": _last_real,
    "the first real token": lambda x, real: x[np.arange(len(x)), real.argmax(axis=1)],
    "the mean over all tokens": lambda x, _: x.mean(axis=1),
    "the mean over real tokens": _mean,
    "the mean over all tokens but the first": lambda x, _: x[:, 1:].mean(axis=1),
    "the largest over all tokens": lambda x, _: x.max(axis=1),
}
"""Ways to pool by the name that people know. A row is a way more."""
CHANGES = tuple(Change("pooled token", f"pooling {name}") for name in POOLS)
"""What is tried."""


def pooling(scene: Scene) -> Iterator[Hypothesis]:
    """Hypotheses for [b, e] made of tokens [b, t, e]."""
    if len(scene.target.shape) != 2:
        return
    for near, activation in enumerate(scene.before()):
        if near == NEAR:
            return
        if not _fits(activation, scene.target):
            continue
        real = _real(scene, activation)
        x = scene.recorded(activation)
        right = next((n for n, pool in POOLS.items() if scene.reproduces(pool(x, real))), None)
        if right is not None:
            yield from _wrong(scene.given(activation), real, right)
            return


def _fits(activation: Activation, target: Activation) -> bool:
    shape = activation.shape
    tokens = len(shape) == 3 and shape[1] > 2
    return tokens and is_float(activation) and (shape[0], shape[2]) == target.shape


def _real(scene: Scene, activation: Activation) -> np.ndarray:
    shape = activation.shape[:2]
    if scene.padding is not None and scene.padding.shape == shape:
        return scene.padding
    return np.ones(shape, bool)


def _wrong(x: np.ndarray, real: np.ndarray, right: str) -> Iterator[Hypothesis]:
    null = POOLS[right](x, real)
    for name, pool in POOLS.items():
        value = pool(x, real)
        if name != right and not np.array_equal(value, null):
            words = f"pooling {name} instead of {right}"
            yield Hypothesis("pooled token", words, value, null)
