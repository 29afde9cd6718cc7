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
