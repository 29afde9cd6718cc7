"""Positions, masks and ids: compared exactly, so explained exactly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from firstdiff.diff.masks import is_mask, truth
from firstdiff.diff.measure import Side

if TYPE_CHECKING:
    from firstdiff.diff.align import Pair
    from firstdiff.diff.layout import Layout
    from firstdiff.diff.row import Row
    from firstdiff.traces import Key, Trace


_CHOSEN = ("num_experts_per_tok", "num_selected_experts", "moe_top_k", "top_k_experts")
"""What configurations call the number of experts that are chosen for a token."""
_ALIKE = 0.9
"""Share of tokens that have to choose alike: where scores tie, rounding decides."""


@dataclass(frozen=True)
class Exact:
    """What is wrong with a tensor that is compared exactly."""

    cause: str | None
    """The class of mistake; None when the difference has no known pattern."""
    words: str
    """The evidence, a sentence without its full stop."""


def explain_exact(
    reference: Trace, port: Trace, row: Row, padding: np.ndarray | None
) -> Exact | None:
    """What is wrong with the mask, positions or ids of ``row``; None when either side has no elements."""
    pair = row.pair
    if (
        pair is None
        or row.layout is None
        or pair.reference.place is None
        or pair.port.place is None
    ):
        return None
    ours, theirs = (
        Side(reference.stored(pair.reference), pair.reference.dtype),
        Side(port.stored(pair.port), pair.port.dtype),
    )
    if is_mask(pair.reference) and is_mask(pair.port):
        seen = truth(ours), truth(theirs)
        if seen[0] is not None and seen[1] is not None:
            return _mask(_laid(row.layout, seen[0]), _laid(row.layout, seen[1], port=True), padding)
    fewer = explain_choices(reference, port, pair)
    if fewer is not None:
        return fewer
    right = _laid(row.layout, reference.values(pair.reference))
    wrong = _laid(row.layout, port.values(pair.port), port=True)
    if right.dtype.kind not in "iu" or wrong.dtype.kind not in "iuf":
        return None
    positions = _are_positions(reference, pair.reference.key, right)
    return _integers(right.astype(np.int64), wrong, padding, positions)


def explain_choices(reference: Trace, port: Trace, pair: Pair) -> Exact | None:
    """Experts chosen for each token, [..., k], of another k, as far as both sides choose alike; None otherwise."""
    if "int" not in pair.reference.dtype or "int" not in pair.port.dtype:
        return None
    right, wrong = reference.values(pair.reference), port.values(pair.port)
    config = reference.header.model.get("config") or {}
    sizes = {right.shape[-1:], *((int(config[name]),) for name in _CHOSEN if config.get(name))}
    if len(sizes) != 1 or not any(config.get(name) for name in _CHOSEN):
        return None
    if (
        right.ndim != wrong.ndim
        or right.shape[:-1] != wrong.shape[:-1]
        or right.dtype.kind not in "iu"
    ):
        return None
    count, other = right.shape[-1], wrong.shape[-1]
    few = min(count, other)
    alike = (right[..., :few] == wrong[..., :few]).all(axis=-1)
    if count == other or alike.mean() < _ALIKE:
        return None
    same = "" if alike.all() else f" for {int(alike.sum())} of {alike.size} tokens"
    return Exact(
        "number of experts",
        f"The port chooses {other} for each token, the reference {count}; the first {few} are the same{same}",
    )


def _are_positions(reference: Trace, key: Key, values: np.ndarray) -> bool:
    """Whether integers are positions, not ids: by their name, or since they count and are no input of the model."""
    if "position" in f"{key.path}.{key.leaf}":
        return True
    equal = [name for name in reference.inputs if np.array_equal(reference.input(name), values)]
    if equal:
        return any("position" in name for name in equal)
    return values.ndim > 0 and values.shape[-1] > 1 and bool((np.diff(values) == 1).all())


def _laid(layout: Layout, values: np.ndarray, *, port: bool = False) -> np.ndarray:
    return np.asarray(layout.port(values) if port else layout.reference(values))


def _mask(right: np.ndarray, wrong: np.ndarray, padding: np.ndarray | None) -> Exact:
    """``right`` and ``wrong``: True where tokens are seen, [..., queries, keys] or [batch, keys]."""
    if np.array_equal(right, ~wrong):
        return Exact("mask inverted", "The port's mask hides exactly what the reference's shows")
    if right.ndim < 2 or right.shape[-1] != right.shape[-2]:
        if wrong.all():
            return Exact(
                "padding mask", "The port's mask hides nothing, the reference's hides padded tokens"
            )
        return Exact(None, _share(right, wrong))
    if wrong.all() and (right == right[..., :1, :]).all():
        return Exact(
            "padding mask", "The port's mask hides nothing, the reference's hides padded tokens"
        )
    tokens = right.shape[-1]
    query, key = np.arange(tokens)[:, None], np.arange(tokens)
    real = _real(right, padding)
    for cause, words, made in (
        ("attention mask missing", "The port's mask hides nothing", np.ones_like(right)),
        (
            "padding mask",
            "The port's mask shows padded tokens, and is causal as the reference's",
            (key <= query) & np.ones_like(right),
        ),
        (
            "causal mask",
            "The port's mask shows later tokens, and hides padded ones as the reference's",
            real & np.ones_like(right),
        ),
        (
            "causal mask",
            "The port's mask is causal, the reference's shows later tokens",
            (key <= query) & right,
        ),
        (
            "causal mask",
            "The port's mask shows one token too many ahead",
            (key <= query + 1) & real,
        ),
        ("causal mask", "The port's mask hides each token from itself", (key < query) & right),
        (
            "mask transposed",
            "The port's mask is the reference's with queries and keys exchanged",
            right.swapaxes(-1, -2),
        ),
    ):
        if np.array_equal(wrong, made) or _alike(wrong, made, real):
            return Exact(cause, words)
    return _window(right, wrong, real, query - key) or Exact(None, _share(right, wrong))


def _real(right: np.ndarray, padding: np.ndarray | None) -> np.ndarray:
    """bool that broadcasts to ``right``: keys that are real tokens."""
    if (
        padding is not None
        and right.ndim == 4
        and padding.shape == (right.shape[0], right.shape[-1])
    ):
        return padding[:, None, None, :]
    return np.ones(right.shape[-1:], bool)


def _alike(wrong: np.ndarray, made: np.ndarray, real: np.ndarray) -> bool:
    """Equal in the rows of real queries: what padded ones see means nothing."""
    if real.ndim != 4 or wrong.ndim != 4:
        return False
    rows = np.broadcast_to(real.swapaxes(-1, -2), wrong.shape)
    return bool((wrong == made)[rows].all())


def _window(
    right: np.ndarray, wrong: np.ndarray, real: np.ndarray, back: np.ndarray
) -> Exact | None:
    """A sliding window missing, added or of another length."""
    causal = (back >= 0) & real & np.ones_like(right)
    spans = [
        int(back[np.broadcast_to(m, right.shape).any(axis=tuple(range(m.ndim - 2)))].max(initial=0))
        + 1
        for m in (right, wrong)
    ]
    for mask, span in zip((right, wrong), spans, strict=True):
        if not np.array_equal(mask, causal & (back < span)) and not _alike(
            mask, causal & (back < span), real
        ):
            return None
    if spans[0] == spans[1]:
        return None
    return Exact(
        "sliding window",
        f"The port's mask reaches {spans[1]} tokens back, the reference's {spans[0]}",
    )


def _share(right: np.ndarray, wrong: np.ndarray) -> str:
    more, less = int((wrong & ~right).sum()), int((right & ~wrong).sum())
    return f"The port's mask shows {more} places more and {less} fewer than the reference's, of {right.size}"


def _integers(
    right: np.ndarray, wrong: np.ndarray, padding: np.ndarray | None, positions: bool
) -> Exact | None:
    keep = np.ones(right.shape, bool)
    if padding is not None and right.shape == padding.shape:
        keep = padding
    difference = (wrong - right)[keep]
    cause = "position offset" if positions else "token ids shifted"
    if difference.size and (difference == difference[0]).all():
        return Exact(cause, f"Every value is {difference[0]:+g} of the reference's")
    rows = (wrong - right).reshape(len(right), -1)
    flat = keep.reshape(len(right), -1)
    per_row = [row[k] for row, k in zip(rows, flat, strict=True)]
    if positions and all(row.size and (row == row[0]).all() for row in per_row):
        found = ", ".join(f"{row[0]:+g}" for row in per_row[:6])
        return Exact(
            "positions of padded rows",
            f"Each row is offset by a number of its own ({found}): padding is counted on one side alone",
        )
    changed = int((difference != 0).sum())
    return Exact(None, f"{changed} of {difference.size} values differ")
