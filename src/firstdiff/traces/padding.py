"""Which elements of an activation belong to real tokens. On the ground floor: floors and differ must agree on it.

Padded rows are garbage by design, so they stay out of error statistics (but not out of the search for
non-finite values).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np


def padding_mask(inputs: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """Bool[batch, tokens] that is True at real tokens, or None when no input says so or nothing is padded.

    ``inputs`` are the model's inputs by keyword; the mask is `attention_mask` (0 at padding), 2-D.
    """
    mask = inputs.get("attention_mask")
    if mask is None or mask.ndim != 2:
        return None
    valid = np.asarray(mask) > 0
    return None if valid.all() else valid


def token_axes(shape: tuple[int, ...], batch: int, tokens: int) -> tuple[int, int] | None:
    """The (batch, token) axes of an activation of ``shape``, or None when it has none.

    The batch is the leading axis. Of several axes as long as the sequence, a 4-D activation means the third
    (batch, heads, tokens, ...: for attention scores, the queries), others the first.
    """
    if len(shape) < 2 or shape[0] != batch:
        return None
    candidates = [axis for axis in range(1, len(shape)) if shape[axis] == tokens]
    if not candidates:
        return None
    return (0, 2) if len(shape) == 4 and 2 in candidates else (0, candidates[0])


def valid_elements(shape: tuple[int, ...], mask: np.ndarray | None) -> np.ndarray | None:
    """Bool array that broadcasts to ``shape``, True at elements of real tokens; None means all of them.

    ``mask`` is the result of `padding_mask`. A flattened (batch * tokens, ...) activation is recognised.
    """
    if mask is None:
        return None
    batch, tokens = mask.shape
    axes = token_axes(shape, batch, tokens)
    if axes is not None:
        expand = [1] * len(shape)
        expand[axes[0]], expand[axes[1]] = batch, tokens
        return mask.reshape(expand)
    if shape and shape[0] == batch * tokens:
        return mask.reshape(-1, *([1] * (len(shape) - 1)))
    return None
