"""Patches of an image on their way to the first layer: their order, the class token, the learned positions.

Positions are parameters, not activations. They are inferred: what the reference's result has beyond the patches is the
same in every image of the batch, and believed to be the positions only when that reproduces it to rounding.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import isqrt
from typing import TYPE_CHECKING

import numpy as np

from firstdiff.diff.explain.hypothesis import Change, Hypothesis
from firstdiff.diff.explain.scene import Scene, is_float

if TYPE_CHECKING:
    from firstdiff.traces.schema import Activation

NEAR, MOST_EXTRA, MOST_PATCHES = 12, 8, 4096
"""Tensors before the wrong one among which the patches are looked for, tokens beside them, patches."""
CHANGES = (
    Change("patch order", "numbering the patches column by column"),
    Change("patch order", "numbering the patches from the last row to the first"),
    Change("patch order", "putting the patches in the order that the port's show"),
    Change("position embedding", "numbering the positions column by column"),
    Change("position embedding", "putting the positions in the order that the port's show"),
    Change("position embedding missing", "leaving out the positions"),
    Change("position offset", "giving each patch the position of the one before"),
    Change("position offset", "giving each patch the position of the one behind"),
    Change("class token", "putting the class token behind the patches"),
    Change("class token", "taking the tokens in front of the patches as the port has them"),
)
"""What is tried."""


@dataclass(frozen=True)
class Tokens:
    """The tokens of images as they enter the first layer."""

    patches: np.ndarray
    """[b, p, e], as the port had them."""
    positions: np.ndarray
    """[p, e]."""
    front: np.ndarray
    """[b, s, e]: class and register tokens with their positions."""
    grid: tuple[int, int]
    """Rows and columns."""

    def joined(self, patches: np.ndarray, front: np.ndarray | None = None) -> np.ndarray:
        """[b, s + p, e]."""
        return np.concatenate([self.front if front is None else front, patches], axis=1)


def patches(scene: Scene) -> Iterator[Hypothesis]:
    """Hypotheses for patches with their positions."""
    found = _tokens(scene)
    if found is None:
        return
    null = found.joined(found.patches + found.positions)
    yield from _ordered(scene, found, null)
    yield from _placed(found, null)
    if found.front.shape[1]:
        yield from _fronted(scene, found, null)


def _tokens(scene: Scene) -> Tokens | None:
    shape = scene.target.shape
    if len(shape) != 3 or shape[0] < 2 or not 1 < shape[1] <= MOST_PATCHES:
        return None
    for near, activation in enumerate(scene.before()):
        if near == NEAR:
            return None
        laid = _laid(scene, activation)
        if laid is None or not 0 <= shape[1] - laid[0].shape[1] <= MOST_EXTRA:
            continue
        right, given, grid = laid
        extra = shape[1] - right.shape[1]
        positions = (scene.right[:, extra:] - right).mean(axis=0)
        front = np.broadcast_to(scene.right[:, :extra].mean(axis=0), (shape[0], extra, shape[2]))
        if not positions.any():  # passed on as it is: no sum
            continue
        if scene.reproduces(np.concatenate([front, right + positions], axis=1)):
            return Tokens(given, positions, front, grid)
    return None


def _laid(
    scene: Scene, activation: Activation
) -> tuple[np.ndarray, np.ndarray, tuple[int, int]] | None:
    """The reference's and the port's patches [b, p, e] and the grid; None for what are none."""
    shape, (b, _, e) = activation.shape, scene.target.shape
    if not is_float(activation) or shape[:1] != (b,):
        return None
    sides = scene.recorded(activation), scene.given(activation)
    if len(shape) == 4 and shape[1] == e:
        rows = tuple(x.reshape(b, e, -1).swapaxes(1, 2) for x in sides)
        return rows[0], rows[1], (shape[2], shape[3])
    if len(shape) == 3 and shape[2] == e and shape[1] > 1:
        side = isqrt(shape[1])
        return *sides, (side, side) if side * side == shape[1] else (1, shape[1])
    return None


def _ordered(scene: Scene, found: Tokens, null: np.ndarray) -> Iterator[Hypothesis]:
    """Patches, or positions, in another order."""
    rows, columns = found.grid
    count = rows * columns
    grid = np.arange(count).reshape(rows, columns)
    x, positions = found.patches, found.positions
    extra = found.front.shape[1]
    if rows > 1 and columns > 1:
        for change, order in zip(CHANGES[:2], (grid.T, grid[::-1]), strict=True):
            value = found.joined(x[:, order.reshape(-1)] + positions)
            yield Hypothesis(change.cause, change.words, value, null)
        value = found.joined(x + positions[grid.T.reshape(-1)])
        yield Hypothesis(CHANGES[3].cause, CHANGES[3].words, value, null)
    port = scene.wrong[:, extra:]
    seen = _order(port - positions, x)
    if seen is not None:
        value = found.joined(x[:, seen] + positions)
        words = f"{CHANGES[2].words}{_moved(seen)}"
        yield Hypothesis(CHANGES[2].cause, words, value, null, fitted=True)
    seen = _order(port - x, np.broadcast_to(positions, x.shape))
    if seen is not None:
        value = found.joined(x + positions[seen])
        words = f"{CHANGES[4].words}{_moved(seen)}"
        yield Hypothesis(CHANGES[4].cause, words, value, null, fitted=True)


def _order(seen: np.ndarray, known: np.ndarray) -> np.ndarray | None:
    """The permutation that brings ``known`` [b, p, e] nearest to ``seen``; None where it is none, or the identity."""
    one, other = (np.nan_to_num(x).swapaxes(0, 1).reshape(x.shape[1], -1) for x in (seen, known))
    distance = (one**2).sum(1)[:, None] + (other**2).sum(1) - 2 * one @ other.T
    order = distance.argmin(axis=1)
    whole = len(set(order.tolist())) == len(order)
    return order if whole and (order != np.arange(len(order))).any() else None


def _moved(order: np.ndarray) -> str:
    return f" ({int((order != np.arange(len(order))).sum())} of {len(order)} moved)"


def _placed(found: Tokens, null: np.ndarray) -> Iterator[Hypothesis]:
    """Positions left out, or one off. What is not known, or may differ too, is not asked."""
    x, positions, extra = found.patches, found.positions, found.front.shape[1]
    where = np.ones(null.shape, bool)
    where[:, :extra] = False
    yield Hypothesis(CHANGES[5].cause, CHANGES[5].words, found.joined(x), null, where=where)
    for change, by, edge in zip(CHANGES[6:8], (1, -1), (extra, -1), strict=True):
        inside = where.copy()
        inside[:, edge] = False
        value = found.joined(x + np.roll(positions, by, axis=0))
        yield Hypothesis(change.cause, change.words, value, null, where=inside)


def _fronted(scene: Scene, found: Tokens, null: np.ndarray) -> Iterator[Hypothesis]:
    """The class token: behind the patches, or another one."""
    port, x = scene.wrong, found.patches
    if found.front.shape[1] == 1 and np.isfinite(port).all():
        first = (port[:, 0] - x[:, 0]).mean(axis=0)
        positions = np.concatenate([first[None], found.positions])
        last = found.front[:, 0] - first + positions[-1]
        value = np.concatenate([x + positions[:-1], last[:, None]], axis=1)
        yield Hypothesis(CHANGES[8].cause, CHANGES[8].words, value, null, fitted=True)
    front = np.broadcast_to(port[:, : found.front.shape[1]].mean(axis=0), found.front.shape)
    value = found.joined(x + found.positions, front)
    yield Hypothesis(CHANGES[9].cause, CHANGES[9].words, value, null, fitted=True)
