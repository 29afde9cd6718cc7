"""Embeddings and the head tied to them: ids off by one, a table that was not shared."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from firstdiff.diff.explain.hypothesis import Change, Hypothesis
from firstdiff.diff.explain.rounding import round_to
from firstdiff.diff.explain.scene import Scene, is_float
from firstdiff.traces.dtypes import unit_roundoff

if TYPE_CHECKING:
    from collections.abc import Iterator

    from firstdiff.traces.schema import Activation

LEAST = 4
"""Tokens whose neighbour in the vocabulary is in the prompt too, needed to tell a shift."""
CHANGES = (
    Change("token ids shifted", "looking up the id before"),
    Change("token ids shifted", "looking up the id after"),
    Change("embedding scale", "multiplying the embedding by sqrt(hidden_size)"),
    Change("embedding scale", "dividing the embedding by sqrt(hidden_size)"),
    Change("embedding scale", "multiplying the embedding by sqrt(hidden_size) rounded to bfloat16"),
    Change("embedding scale", "rounding the embedding's factor sqrt(hidden_size) to bfloat16"),
    Change("embedding scale", "not rounding the embedding's factor sqrt(hidden_size) to bfloat16"),
    Change("embedding scale", "multiplying the embedding by hidden_size"),
)
"""What is tried."""


def embedding(scene: Scene) -> Iterator[Hypothesis]:
    """Hypotheses for rows looked up by token id."""
    ids = token_ids(scene, scene.target)
    if ids is None:
        return
    rows = scene.recorded(scene.target)
    table = {int(i): rows[place] for place, i in np.ndenumerate(ids)}
    for by, change in ((-1, CHANGES[0]), (1, CHANGES[1])):
        known = np.array([int(i) + by in table for i in ids.reshape(-1)]).reshape(ids.shape)
        if known.sum() >= LEAST:
            value = rows.copy()
            for place in zip(*np.nonzero(known), strict=True):
                value[place] = table[int(ids[place]) + by]
            where = np.broadcast_to(known[..., None], rows.shape)
            yield Hypothesis(change.cause, change.words, value, where=where)
    root = float(np.sqrt(rows.shape[-1]))
    narrow = float(round_to(np.array(root), "bfloat16"))
    factors = (root, 1 / root, narrow, narrow / root, root / narrow, root**2)
    for factor, change in zip(factors, CHANGES[2:], strict=True):
        yield Hypothesis(change.cause, change.words, rows * factor)


def token_ids(scene: Scene, output: Activation) -> np.ndarray | None:
    """Integer ids of which ``output`` is an embedding: equal ids have equal rows, and there are at least two ids."""
    key = output.key
    for a in scene.reference.activations:
        same = (a.key.path, a.key.call, a.key.step) == (
            key.path,
            key.call,
            key.step,
        ) and a.key.site == "input"
        if (
            not same
            or is_float(a)
            or unit_roundoff(a.dtype)
            or a.shape != output.shape[:-1]
            or a.place is None
        ):
            continue
        ids, rows = np.asarray(scene.reference.values(a)), scene.recorded(output)
        flat, table = ids.reshape(-1), rows.reshape(-1, rows.shape[-1])
        _, first, inverse = np.unique(flat, return_index=True, return_inverse=True)
        if len(first) > 1 and np.array_equal(table, table[first][inverse]):
            return ids
    return None


def untied(scene: Scene) -> bool:
    """Whether the reference's head is tied to its embedding, and the port's is not: unrelated to any of it.

    The embedding's rows are known for the tokens of the prompt. The reference's logits of those tokens are their
    products with the head's input; the port's are not, and do not resemble the reference's at all.
    """
    given = scene.inputs()
    if len(given) != 1 or len(scene.target.shape) < 2:
        return False
    x, width = scene.recorded(given[0]), scene.target.shape[-1]
    for output in scene.before():
        if output.key.site != "output" or output.shape[-1:] != x.shape[-1:] or not is_float(output):
            continue
        ids = token_ids(scene, output)
        if ids is None or ids.max() >= width or ids.min() < 0:
            continue
        known, first = np.unique(ids.reshape(-1), return_index=True)
        rows = scene.recorded(output).reshape(-1, x.shape[-1])[first]
        value = np.full(scene.target.shape, np.nan)
        value[..., known] = x @ rows.T
        return len(known) >= LEAST and scene.reproduces(value) and resemblance(scene) < 0.3
    return False


def resemblance(scene: Scene) -> float:
    """|cosine| between port and reference, token by token without their means, at the median."""
    ours, theirs = (side - side.mean(axis=1, keepdims=True) for side in scene.tokens)
    with np.errstate(divide="ignore", invalid="ignore"):
        cosines = (ours * theirs).sum(1) / np.sqrt((ours**2).sum(1) * (theirs**2).sum(1))
    return float(np.median(np.abs(np.nan_to_num(cosines)))) if len(cosines) else 1.0
