"""One projection that makes queries, keys and values, cut in every order that checkpoints have. A table."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Cut = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Queries [b, t, h*d], keys and values [b, t, k*d]."""


def _in_order(order: str) -> Callable[[np.ndarray, int, int, int], Cut | None]:
    """One behind the other, all heads of each together."""

    def cut(x: np.ndarray, heads: int, groups: int, d: int) -> Cut | None:
        widths = [(heads if name == "q" else groups) * d for name in order]
        parts = dict(zip(order, np.split(x, np.cumsum(widths)[:-1], axis=-1), strict=True))
        return parts["q"], parts["k"], parts["v"]

    return cut


def _by_group(x: np.ndarray, heads: int, groups: int, d: int) -> Cut | None:
    """For each key-value head its queries, its key and its value: GPT-NeoX, BLOOM, Falcon, Megatron."""
    b, t, _ = x.shape
    many = heads // groups
    blocks = x.reshape(b, t, groups, many + 2, d)  # [b, t, k, q q .. k v, d]
    parts = blocks[..., :many, :], blocks[..., many, :], blocks[..., many + 1, :]
    q, k, v = (np.ascontiguousarray(part).reshape(b, t, -1) for part in parts)
    return q, k, v


def _interleaved(x: np.ndarray, heads: int, groups: int, d: int) -> Cut | None:
    """Channel by channel: query, key, value, query, ..."""
    if heads != groups:
        return None
    b, t, _ = x.shape
    parts = x.reshape(b, t, heads * d, 3)
    q, k, v = (np.ascontiguousarray(parts[..., n]) for n in range(3))
    return q, k, v


CUTS: dict[str, Callable[[np.ndarray, int, int, int], Cut | None]] = {
    "query, key, value": _in_order("qkv"),
    "query, value, key": _in_order("qvk"),
    "key, query, value": _in_order("kqv"),
    "key, value, query": _in_order("kvq"),
    "value, query, key": _in_order("vqk"),
    "value, key, query": _in_order("vkq"),
    "query, key and value of each head": _by_group,
    "query, key and value of each channel": _interleaved,
}
"""How [b, t, (h + 2k) * d] is cut; heads, key-value heads and head_dim are given."""


def cut(x: np.ndarray, name: str, heads: int, groups: int, d: int) -> Cut | None:
    """``x`` [b, t, (heads + 2 groups) * d] cut as `CUTS` calls it; None where that is not possible."""
    return CUTS[name](x, heads, groups, d)
