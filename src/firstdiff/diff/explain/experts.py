"""Mixtures of experts: what the experts say, chosen, weighed and added up in another way.

What each expert says of each token is read from the port's trace, where its experts see every token, or computed with
the reference's kernels, where its trace keeps them; believed only where the right sum is the reference's result.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from firstdiff.diff.explain.activations import FUNCTIONS
from firstdiff.diff.explain.hypothesis import Change, Hypothesis
from firstdiff.traces.dtypes import unit_roundoff

if TYPE_CHECKING:
    from firstdiff.diff.explain.scene import Scene
    from firstdiff.traces.schema import Activation

MOST = 1 << 26
"""Elements of all experts' results together beyond which nothing is computed."""
GATES = ("SiLU", "GELU", "GELU by tanh", "ReLU")
CHANGES = (
    Change("router weights", "adding up the chosen experts with equal shares"),
    Change("router weights", "adding up the chosen experts unweighted"),
    Change("router weights", "weighing the chosen experts in the opposite order"),
    Change("router weights", "weighing the chosen experts twice"),
    Change("number of experts", "taking the first of the chosen experts alone, with its weight"),
    Change("number of experts", "taking the first of the chosen experts alone, with weight one"),
    Change("number of experts", "averaging all experts"),
    Change("weights swapped", "exchanging gate and up of every expert"),
    Change("weights swapped", "numbering the experts one further"),
    Change("weights swapped", "numbering the experts one back"),
    Change("kernel rearranged", "reading gate and up as neighbouring rows, not as halves"),
    Change("activation function", "applying another function in the experts"),
)
"""What is tried."""


@dataclass(frozen=True)
class Routing:
    """Which expert counts how much for each token."""

    chosen: np.ndarray
    """int [n, k]."""
    weights: np.ndarray
    """[n, k]."""

    def shares(self, weights: np.ndarray, experts: int) -> np.ndarray:
        """[n, experts] of ``weights`` [n, k]."""
        found = np.zeros((len(self.chosen), experts))
        np.add.at(found, (np.arange(len(found))[:, None], self.chosen), weights)
        return found


def experts(scene: Scene) -> Iterator[Hypothesis]:
    """Hypotheses for the sum of what the chosen experts say: the result of a module given tokens and a routing."""
    routing = _routing(scene)
    if routing is None:
        return
    said = _recorded(scene)
    if said is not None and _adds_up(scene, said, routing):
        yield from _shared(said, routing)
        return
    block = _block(scene)
    if block is not None and _adds_up(scene, block(), routing):
        yield from _shared(block(), routing)
        yield from _changed(block, routing)


def _routing(scene: Scene) -> Routing | None:
    given = scene.inputs()
    tokens = [a for a in given if a.shape == scene.target.shape and len(a.shape) == 2]
    weights = [a for a in given if len(a.shape) == 2 and a not in tokens]
    if len(tokens) != 1 or len(weights) != 1:
        return None
    key = scene.target.key
    for a in scene.reference.activations:
        same = (a.key.path, a.key.call, a.key.step) == (key.path, key.call, key.step)
        if not same or a.key.site != "input" or a.shape != weights[0].shape or a.place is None:
            continue
        if not unit_roundoff(a.dtype):
            chosen = np.asarray(scene.reference.values(a)).astype(np.int64)
            return Routing(chosen, scene.recorded(weights[0]))
    return None


def _sum(said: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Results [experts, n, e] and shares [n, experts] -> [n, e]."""
    return np.asarray(np.einsum("nx,xne->ne", shares, said))


def _adds_up(scene: Scene, said: np.ndarray, routing: Routing) -> bool:
    if routing.chosen.size and routing.chosen.max() >= len(said):
        return False
    return scene.reproduces(_sum(said, routing.shares(routing.weights, len(said))))


def _recorded(scene: Scene) -> np.ndarray | None:
    """What the port's experts say of every token, [experts, n, e], where it records that."""
    assert scene.row.pair is not None, "a pair"
    port, shape = scene.row.pair.port, scene.target.shape
    single: dict[str, list[Activation]] = defaultdict(list)
    for a in scene.port.activations:
        inside = a.key.path.startswith(f"{port.key.path}.") and a.key.step == port.key.step
        if not inside or a.key.site != "output" or a.place is None or a.order >= port.order:
            continue
        if a.shape[1:] == shape and a.key.path.count(".") == port.key.path.count(".") + 1:
            return np.asarray(scene.port.values(a), np.float64)
        if a.shape == shape:
            single[re.sub(r"\d+", "#", a.key.path)].append(a)
    for found in single.values():
        if len(found) > 1 and len({a.key.path for a in found}) == len(found):
            return np.stack([np.asarray(scene.port.values(a), np.float64) for a in found])
    return None


def _shared(said: np.ndarray, routing: Routing) -> Iterator[Hypothesis]:
    """Other shares of the same results."""
    count, k = len(said), routing.weights.shape[-1]
    first = np.eye(k)[0]
    null = _sum(said, routing.shares(routing.weights, count))
    w = routing.weights
    shares = (
        np.full(w.shape, 1 / k), np.ones(w.shape), w[:, ::-1], w**2, w * first,
        np.broadcast_to(first, w.shape),
    )  # fmt: skip
    for change, weights in zip(CHANGES[:6], shares, strict=True):
        if k > 1:
            value = _sum(said, routing.shares(weights, count))
            yield Hypothesis(change.cause, change.words, value, null)
    yield Hypothesis(CHANGES[6].cause, CHANGES[6].words, said.mean(axis=0), null)


@dataclass(frozen=True)
class _Block:
    """Gated experts with known kernels."""

    x: np.ndarray
    """[n, e]."""
    gate: np.ndarray
    """[experts, f, e]."""
    up: np.ndarray
    """The same."""
    down: np.ndarray
    """[experts, e, f]."""
    name: str
    """The function of the gate."""

    def __call__(self, name: str = "") -> np.ndarray:
        """What every expert says of every token, [experts, n, e]."""
        function = FUNCTIONS[name or self.name]
        wide = function(self.x @ self.gate.swapaxes(1, 2)) * (self.x @ self.up.swapaxes(1, 2))
        return np.asarray(wide @ self.down.swapaxes(1, 2))


def _block(scene: Scene) -> _Block | None:
    """The reference's experts, where its trace keeps their kernels: gate and up as one, and down."""
    both, down = (
        scene.parameter(f"{scene.target.key.path}.{name}") for name in ("gate_up_proj", "down_proj")
    )
    if both is None or down is None or both.ndim != 3 or down.ndim != 3:
        return None
    e, f = scene.target.shape[-1], both.shape[1] // 2
    if both.shape[2] != e or down.shape[1:] != (e, f):
        return None
    if both.shape[0] * scene.target.shape[0] * max(e, f) > MOST:
        return None
    tokens = next(a for a in scene.inputs() if a.shape == scene.target.shape)
    routing = _routing(scene)
    for name in GATES:
        block = _Block(scene.given(tokens), both[:, :f], both[:, f:], down, name)
        if routing is not None and _adds_up(scene, block(), routing):
            return block
    return None


def _changed(block: _Block, routing: Routing) -> Iterator[Hypothesis]:
    """The same shares of other results."""

    def add(said: np.ndarray) -> np.ndarray:
        return _sum(said, routing.shares(routing.weights, len(said)))

    null = add(block())
    exchanged = _Block(block.x, block.up, block.gate, block.down, block.name)
    both = np.concatenate([block.gate, block.up], axis=1)
    neighbours = _Block(block.x, both[:, ::2], both[:, 1::2], block.down, block.name)
    yield Hypothesis(CHANGES[7].cause, CHANGES[7].words, add(exchanged()), null)
    for change, by in zip(CHANGES[8:10], (1, -1), strict=True):
        yield Hypothesis(change.cause, change.words, add(np.roll(block(), by, axis=0)), null)
    yield Hypothesis(CHANGES[10].cause, CHANGES[10].words, add(neighbours()), null)
    for name in FUNCTIONS:
        if name != block.name:
            words = f"applying {name} instead of {block.name} in the experts"
            yield Hypothesis("activation function", words, add(block(name)), null)
