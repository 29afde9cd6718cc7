"""Attention masks: booleans, 0/1 numbers and additive masks (0 or hugely negative) that say the same are the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from firstdiff.diff.blocks import BLOCK
from firstdiff.traces.dtypes import unit_roundoff, widen

if TYPE_CHECKING:
    from collections.abc import Callable

    from firstdiff.diff.measure import Side
    from firstdiff.traces.schema import Activation

MASKED = -1e4
"""An additive mask is 0 where tokens are seen; at or below this (-1e9, finfo.min, -inf) they are not."""

_EQUAL = 1e-3
"""Distance of the sketches of two equal masks, for each hidden element: rounding of their sums alone."""


def is_mask(activation: Activation) -> bool:
    """Whether ``activation`` can be a mask by its dtype, name and digest; its elements decide."""
    named = "mask" in activation.key.leaf
    if activation.dtype == "bool" or not unit_roundoff(activation.dtype):
        return activation.dtype == "bool" or named
    digest = activation.digest
    if digest is None or digest.nan or digest.posinf:
        return False
    additive = digest.max == 0 and (digest.min <= MASKED or digest.neginf > 0)
    return additive or (
        named and digest.neginf == 0 and (digest.min, digest.max) in {(0, 0), (0, 1), (1, 1)}
    )


def truth(side: Side) -> np.ndarray | None:
    """bool array of ``side``'s shape, True where tokens are seen; None when its elements are no mask's."""
    read = _reading(side.dtype)
    flat = np.ascontiguousarray(side.stored).reshape(-1)
    seen = np.empty(flat.size, bool)
    for start in range(0, flat.size, BLOCK):
        values = widen(flat[start : start + BLOCK], side.dtype)
        if not read(values, seen[start : start + BLOCK]):
            return None
    if not unit_roundoff(side.dtype) or not _is_ones(flat, side.dtype):
        return seen.reshape(side.stored.shape)
    return ~seen.reshape(side.stored.shape)


def alike_by_digest(one: Activation, other: Activation) -> bool | None:
    """Whether two additive masks of one size hide alike, as far as digests tell; None when either is no such mask.

    As many elements have to be hidden, and the same ones where both hide by a finite number: a sketch lacks -inf.
    """
    ours, theirs = _hidden(one), _hidden(other)
    if ours is None or theirs is None:
        return None
    (count, sketch), (other_count, other_sketch) = ours, theirs
    if round(count) != round(other_count):
        return False
    if sketch is None or other_sketch is None:
        return True
    distance = np.linalg.norm(sketch - other_sketch)
    return bool(distance < _EQUAL * np.sqrt(max(count, 1.0)))


def _hidden(activation: Activation) -> tuple[float, np.ndarray | None] | None:
    """How many elements an additive mask hides, and the sketch of where: 1 for hidden, 0 for seen."""
    digest = activation.digest
    if digest is None or digest.nan or digest.posinf or digest.max != 0:
        return None
    if digest.min == 0:
        return float(digest.neginf), None
    squares = (digest.rms / digest.min) ** 2 * (digest.count - digest.neginf)
    if (
        digest.min > MASKED
        or abs(digest.mean / digest.min * (digest.count - digest.neginf) - squares) > 0.5
    ):
        return None  # numbers of several sizes: a bias, no mask
    sketch = (
        None if digest.neginf or digest.sketch is None else np.asarray(digest.sketch) / digest.min
    )
    return digest.neginf + squares, sketch


def _reading(dtype: str) -> Callable[[np.ndarray, np.ndarray], bool]:
    return _read_float if unit_roundoff(dtype) else _read_exact


def _read_exact(values: np.ndarray, seen: np.ndarray) -> bool:
    np.not_equal(values, 0, out=seen)
    return bool((values.astype(np.int64) == seen).all())


def _read_float(values: np.ndarray, seen: np.ndarray) -> bool:
    """``seen`` where 0; legal are 0, 1 and what hides."""
    np.equal(values, 0, out=seen)
    return bool((seen | (values <= MASKED) | (values == 1)).all())


def _is_ones(flat: np.ndarray, dtype: str) -> bool:
    """Whether a float mask is one of 0 and 1, where 1 means seen."""
    return any(
        bool((widen(flat[s : s + BLOCK], dtype) == 1).any()) for s in range(0, flat.size, BLOCK)
    )
