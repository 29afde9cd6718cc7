"""Embeddings added up: words, learned positions, token types; one left out, added twice, or looked up elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from firstdiff.diff.explain.hypothesis import Change, Hypothesis
from firstdiff.diff.explain.scene import Scene, is_float
from firstdiff.traces.dtypes import unit_roundoff

if TYPE_CHECKING:
    from firstdiff.traces.schema import Activation

NEAR, MOST_TYPES = 32, 4
"""Tensors before the wrong one among which embeddings are looked for; ids up to which they are token types."""
SHIFTS = (1, 2, -1)
MISSING = {
    "types": "token types missing",
    "positions": "position embedding missing",
    "words": "residual connection",
}
"""The cause when one of them is left out."""
CHANGES = (
    Change("token types missing", "leaving out the embedding of the token types"),
    Change("token types missing", "adding the embedding of another token type"),
    Change("position embedding missing", "leaving out the learned positions"),
    Change("position offset", "looking up learned positions some places later or earlier"),
    Change("positions of padded rows", "counting learned positions without padded tokens"),
    Change("positions of padded rows", "counting learned positions with padded tokens"),
)
"""What is tried."""


@dataclass(frozen=True)
class Embedded:
    """What an embedding returned."""

    path: str
    """Its module."""
    kind: str
    """`words`, `positions` or `types`."""
    ids: np.ndarray
    """int [1 or b, t]."""
    right: np.ndarray
    """[1 or b, t, e], the reference's."""
    given: np.ndarray
    """The port's."""


def summands(scene: Scene) -> Iterator[Hypothesis]:
    """Hypotheses for a sum of two or three embeddings."""
    parts = summed(scene)
    if parts:
        yield from _wrong(scene, parts)


def summed(scene: Scene) -> tuple[Embedded, ...]:
    """The embeddings whose sum is the reference's tensor; none where it is no such sum."""
    found = _embedded(scene) if len(scene.target.shape) == 3 else []
    for count in (3, 2):
        for parts in combinations(found, count):
            if scene.reproduces(_total([part.right for part in parts])):
                return parts
    return ()


def _total(values: list[np.ndarray]) -> np.ndarray:
    return np.asarray(sum(values[1:], values[0]))


def _embedded(scene: Scene) -> list[Embedded]:
    """Results of embeddings before the tensor that broadcast to it."""
    found = []
    for near, activation in enumerate(scene.before()):
        if near == NEAR:
            break
        shape, target = activation.shape, scene.target.shape
        fits = len(shape) == 3 and shape[1:] == target[1:] and shape[0] in (1, target[0])
        if not fits or activation.key.site != "output" or not is_float(activation):
            continue
        ids = _ids(scene, activation)
        if ids is not None:
            sides = scene.recorded(activation), scene.given(activation)
            path = activation.key.path
            found.append(Embedded(path, _kind(path, ids), ids, *sides))
    return found


def _ids(scene: Scene, output: Activation) -> np.ndarray | None:
    """What ``output`` was looked up by."""
    key = output.key
    for a in scene.reference.activations:
        same = (a.key.path, a.key.call, a.key.step) == (key.path, key.call, key.step)
        given = same and a.key.site == "input" and a.shape == output.shape[:-1]
        if given and a.place is not None and not unit_roundoff(a.dtype):
            return np.asarray(scene.reference.values(a))
    return None


def _kind(path: str, ids: np.ndarray) -> str:
    name = path.rpartition(".")[2]
    if "pos" in name or name == "wpe" or (ids.shape[-1] > 1 and (np.diff(ids) == 1).all()):
        return "positions"
    return "types" if "type" in name or ids.max(initial=0) < MOST_TYPES else "words"


def _wrong(scene: Scene, parts: tuple[Embedded, ...]) -> Iterator[Hypothesis]:
    null = _total([part.given for part in parts])
    for part in parts:
        cause = MISSING[part.kind]
        yield Hypothesis(cause, f"leaving out the result of {part.path}", null - part.given, null)
        if part.kind == "types":
            yield from _other_type(scene, part, null)
        if part.kind == "positions":
            yield from _elsewhere(scene, part, null)


def _other_type(scene: Scene, part: Embedded, null: np.ndarray) -> Iterator[Hypothesis]:
    """Another row of a table that is kept, where all tokens have one type."""
    table = scene.parameter(f"{part.path}.weight")
    if table is None or len(np.unique(part.ids)) != 1:
        return
    for number, row in enumerate(table[:MOST_TYPES]):
        if number != part.ids.flat[0]:
            words = f"adding the embedding of token type {number}"
            yield Hypothesis(MISSING["types"], words, null - part.given + row, null)


def _elsewhere(scene: Scene, part: Embedded, null: np.ndarray) -> Iterator[Hypothesis]:
    """Learned positions looked up by other ids, as far as their rows are known."""
    ids = np.broadcast_to(part.ids, null.shape[:2])
    tries = [
        ("position offset", f"looking up positions {by:+d} of the right ones", ids + by)
        for by in SHIFTS
    ]
    if scene.padding is not None and scene.padding.shape == ids.shape:
        counted = np.maximum(np.cumsum(scene.padding, axis=1) - 1, 0)
        plain = np.broadcast_to(np.arange(ids.shape[1]), ids.shape)
        first = int(part.ids.min())
        tries.append(("positions of padded rows", CHANGES[4].words, counted + first))
        tries.append(("positions of padded rows", CHANGES[5].words, plain + first))
    known = {int(i): part.given[place] for place, i in np.ndenumerate(part.ids)}
    for cause, words, other in tries:
        where = np.isin(other, list(known))
        if not where.any() or np.array_equal(other, ids):
            continue
        rows = np.zeros(null.shape)
        for place in zip(*np.nonzero(where), strict=True):
            rows[place] = known[int(other[place])]
        value = null - part.given + rows
        there = np.broadcast_to(where[..., None], null.shape)
        yield Hypothesis(cause, words, value, null, where=there)
