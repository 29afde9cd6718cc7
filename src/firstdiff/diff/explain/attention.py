"""Attention between the projections and the merged heads, as the reference computes it and as ports get it wrong.

b = batch, t = queries, s = keys, h = heads, k = key-value heads, d = head_dim.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from firstdiff.diff.explain.rounding import round_to

HIDDEN = -1e30
"""Added to a score that must not count."""


@dataclass(frozen=True)
class Operands:
    """What attention is made of, float64."""

    q: np.ndarray
    """[b, t, h*d]."""
    k: np.ndarray
    """[b, s, k*d]."""
    v: np.ndarray
    """[b, s, k*d]."""
    head_dim: int
    """d."""
    mask: np.ndarray
    """bool [b, 1 or h, t, s], True where tokens are seen."""
    real: np.ndarray
    """bool [b, 1, 1, s], True at real tokens."""
    tables: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    """cos and sin [1 or b, t, width] by name; empty without rotary embedding."""
    queries: np.ndarray | None = None
    """Places of the queries that are evaluated, where all of them would be too many; None means all."""


@dataclass(frozen=True)
class Attention:
    """How attention computes. The defaults are Llama's; every field is something a port can have wrong."""

    rotary: str = "half"
    """Pairing of channels for both: `half`, `interleaved`, `negative`, `none`."""
    rotary_k: str = ""
    """Pairing for the keys alone; empty for the same."""
    table: str = "recorded"
    """Which cos and sin."""
    shift_q: int = 0
    """Positions by which the queries are ahead of the keys."""
    ahead_last: int = 0
    """Positions by which the last token is ahead of its own."""
    scale: float = 0.0
    """Factor on the scores."""
    cap: float = 0.0
    """Scores are cap * tanh(scores / cap); 0 for none."""
    repeat: str = "repeated"
    """Key-value heads for the query heads: `repeated` (0 0 1 1) or `tiled` (0 1 0 1)."""
    mask: str = "recorded"
    """`recorded`, `none`, `causal`, `padding`, `one later`, `strict`, `inverse`."""
    fill: float = HIDDEN
    """Added where the mask hides."""
    window: int = 0
    """Keys this far back and farther are hidden; 0 for no window."""
    empty_last: bool = False
    """Whether the last key and value are zero."""
    softmax: str = "keys"
    """Over `keys`, `queries`, or `none`."""
    split: str = "tokens first"
    """Heads split by `tokens first`, `heads first` (a reshape alone), or `channels first` (d before h)."""
    merge: str = "tokens first"
    """Heads merged likewise."""
    swapped: str = ""
    """Whether keys and values are exchanged: `before` or `after` the rotation; empty for not."""
    rounded: str = ""
    """What is rounded: `probabilities`, `softmax`, `scores`, `operands`; empty for nothing."""
    dtype: str = "bfloat16"
    """To what."""


def attend(given: Operands, spec: Attention) -> np.ndarray:
    """[b, t, h*d]: what attention with ``spec`` gives; NaN at queries that are not evaluated."""
    k, v = (given.v, given.k) if spec.swapped == "before" else (given.k, given.v)
    q, k, v = (_split(x, given.head_dim, spec.split) for x in (given.q, k, v))  # [b, n, t, d]
    q, k = _turn(q, k, given, spec)
    if spec.swapped == "after":
        k, v = v, k
    if spec.empty_last:
        k, v = (_zero_last(x) for x in (k, v))
    if spec.rounded == "operands":
        q, k, v = (round_to(x, spec.dtype) for x in (q, k, v))
    groups = q.shape[1] // k.shape[1]
    k, v = (_repeat(x, groups, spec.repeat) for x in (k, v))  # [b, h, s, d]
    if given.queries is None:
        weights = _softmax(_scores(q, k, given, spec), spec)  # [b, h, t, s]
        return _merge(weights @ v, spec.merge)
    return _some(q, k, v, given, spec)


def _some(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, given: Operands, spec: Attention
) -> np.ndarray:
    """`attend` at some queries; all NaN where a query's result depends on the others."""
    b, h, t, d = q.shape
    whole = np.full((b, t, h * d), np.nan)
    if spec.softmax == "queries" or spec.merge == "heads first":
        return whole
    weights = _softmax(_scores(q[:, :, given.queries], k, given, spec), spec)
    whole[:, given.queries] = _merge(weights @ v, spec.merge)
    return whole


def _split(x: np.ndarray, d: int, how: str) -> np.ndarray:
    b, t, width = x.shape
    if how == "heads first":
        return x.reshape(b, width // d, t, d)
    if how == "channels first":
        return x.reshape(b, t, d, width // d).transpose(0, 3, 1, 2)
    return x.reshape(b, t, width // d, d).transpose(0, 2, 1, 3)


def _merge(x: np.ndarray, how: str) -> np.ndarray:
    b, h, t, d = x.shape
    axes = {"heads first": (0, 1, 2, 3), "channels first": (0, 2, 3, 1)}.get(how, (0, 2, 1, 3))
    return np.ascontiguousarray(x.transpose(axes)).reshape(b, t, h * d)


def _turn(
    q: np.ndarray, k: np.ndarray, given: Operands, spec: Attention
) -> tuple[np.ndarray, np.ndarray]:
    if spec.table not in given.tables:
        return q, k
    cos, sin = (table[:, None] for table in given.tables[spec.table])  # [1 or b, 1, t, width]
    if spec.ahead_last:
        cos, sin = _ahead_last(cos, sin, spec.ahead_last)
    cos_q, sin_q = (_shift(x, spec.shift_q) for x in (cos, sin))
    return rotate(q, cos_q, sin_q, spec.rotary), rotate(k, cos, sin, spec.rotary_k or spec.rotary)


def rotate(x: np.ndarray, cos: np.ndarray, sin: np.ndarray, pairing: str) -> np.ndarray:
    """``x`` [b, n, t, d] turned by tables of width <= d; channels beyond the width pass."""
    width = cos.shape[-1]
    if pairing == "none":
        return x
    turned, rest = x[..., :width], x[..., width:]
    if pairing.startswith("interleaved"):
        other = np.stack([-turned[..., 1::2], turned[..., ::2]], -1).reshape(turned.shape)
        if pairing == "interleaved throughout":
            # tables too: c0 c0 c1 c1 ... instead of c0 c1 ... c0 c1 ...
            cos, sin = (np.repeat(table[..., : width // 2], 2, axis=-1) for table in (cos, sin))
    else:
        half = width // 2
        other = np.concatenate([-turned[..., half:], turned[..., :half]], -1)
    if pairing == "negative":
        other = -other
    if pairing == "cos and sin exchanged":
        cos, sin = sin, cos
    return np.concatenate([turned * cos + other * sin, rest], -1)


def _shift(table: np.ndarray, by: int) -> np.ndarray:
    """The table of positions ``by`` later; the last ones are turned by the step between the last two."""
    for _ in range(by):
        table = np.concatenate([table[:, :, 1:], table[:, :, -1:]], axis=2)
    return table


def _ahead_last(cos: np.ndarray, sin: np.ndarray, by: int) -> tuple[np.ndarray, np.ndarray]:
    if cos.shape[2] < 2:
        return cos, sin
    angle = np.arctan2(sin, cos)
    last = angle[:, :, -1] + by * (angle[:, :, -1] - angle[:, :, -2])
    cos, sin = cos.copy(), sin.copy()
    cos[:, :, -1], sin[:, :, -1] = np.cos(last), np.sin(last)
    return cos, sin


def _zero_last(x: np.ndarray) -> np.ndarray:
    x = x.copy()
    x[:, :, -1] = 0
    return x


def _repeat(x: np.ndarray, groups: int, how: str) -> np.ndarray:
    return np.tile(x, (1, groups, 1, 1)) if how == "tiled" else np.repeat(x, groups, axis=1)


def _scores(q: np.ndarray, k: np.ndarray, given: Operands, spec: Attention) -> np.ndarray:
    scores = q @ k.swapaxes(-1, -2) * spec.scale
    if spec.rounded == "scores":
        scores = round_to(scores, spec.dtype)
    if spec.cap:
        scores = spec.cap * np.tanh(scores / spec.cap)
    seen = _seen(given, spec)
    if given.queries is not None and seen.shape[-2] != 1:
        seen = seen[..., given.queries, :]
    return np.asarray(scores + np.where(seen, 0.0, spec.fill))


def _seen(given: Operands, spec: Attention) -> np.ndarray:
    t, s = given.mask.shape[-2:]
    query, key = np.arange(t)[:, None] + (s - t), np.arange(s)
    kinds = {
        "none": np.ones((t, s), bool),
        "padding": given.real,
        "causal": key <= query,
        "one later": (key <= query + 1) & given.real,
        "strict": ((key < query) | (key == 0)) & given.real,
        "causal and padding": (key <= query) & given.real,
        "inverse": ~given.mask,
    }
    seen = kinds.get(spec.mask, given.mask)
    return np.asarray(seen & (query - key < spec.window) if spec.window else seen)


def _softmax(scores: np.ndarray, spec: Attention) -> np.ndarray:
    if spec.softmax == "none":
        return np.asarray(np.where(scores < HIDDEN / 2, 0.0, scores))
    axis = -2 if spec.softmax == "queries" else -1
    if spec.rounded == "softmax":
        return _narrow_softmax(scores, axis, spec.dtype)
    powers = np.exp(scores - scores.max(axis=axis, keepdims=True))
    weights = powers / powers.sum(axis=axis, keepdims=True)
    return np.asarray(round_to(weights, spec.dtype) if spec.rounded == "probabilities" else weights)


def _narrow_softmax(scores: np.ndarray, axis: int, dtype: str) -> np.ndarray:
    """Differences and powers rounded to ``dtype``; sum and quotient are not, because their order is not known."""
    narrow = round_to(np.maximum(scores, -6e4), dtype)
    powers = round_to(np.exp(round_to(narrow - narrow.max(axis=axis, keepdims=True), dtype)), dtype)
    return np.asarray(powers / powers.sum(axis=axis, keepdims=True))
