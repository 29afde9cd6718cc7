"""Other right ways to compute what `ops` does: equal in exact arithmetic, different in rounding.

Each is what some port really does. A comparison must not call any of them a divergence.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from firstdiff.models.qwen2 import ops

if TYPE_CHECKING:
    import numpy as np

BLOCK = 16
"""Keys that the attention in blocks looks at together."""


def norm_scaled_in_float32(x: jax.Array, scale: jax.Array, eps: float) -> jax.Array:
    """Rounded once, behind the scale, where the reference rounds before it."""
    wide = x.astype(jnp.float32)
    variance = jnp.mean(wide * wide, axis=-1, keepdims=True)  # [..., 1]
    normal = wide * jax.lax.rsqrt(variance + eps)
    return (scale.astype(jnp.float32) * normal).astype(x.dtype)


def norm_summed_backwards(x: jax.Array, scale: jax.Array, eps: float) -> jax.Array:
    """The squares added up from the last to the first, and a division by the root."""
    wide = x.astype(jnp.float32)[..., ::-1]
    total = jnp.cumsum(wide * wide, axis=-1)[..., -1:]  # [..., 1], one after the other
    normal = x.astype(jnp.float32) / jnp.sqrt(total / x.shape[-1] + eps)
    return scale * normal.astype(x.dtype)


def norm_by_dot(x: jax.Array, scale: jax.Array, eps: float) -> jax.Array:
    """The mean of the squares as a scalar product."""
    wide = x.astype(jnp.float32)
    total = jnp.einsum("...i,...i->...", wide, wide)[..., None]  # [..., 1]
    return scale * (wide * jax.lax.rsqrt(total / x.shape[-1] + eps)).astype(x.dtype)


def softmax_kept_in_float32(scores: jax.Array, _dtype: str) -> jax.Array:
    """Not rounded to the dtype of the values; the product with them is then taken in float32."""
    return jax.nn.softmax(scores.astype(jnp.float32), axis=-1)


def attention_with_float32_weights(
    q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array, scaling: float
) -> jax.Array:
    """Scores and weights in float32 throughout; rounded once, at the end."""
    groups = q.shape[-3] // k.shape[-3]
    k, v = ops.repeat_kv(k, groups), ops.repeat_kv(v, groups)
    wide = [x.astype(jnp.float32) for x in (q, k, v)]
    scores = jnp.matmul(wide[0], jnp.swapaxes(wide[1], -1, -2)) * scaling
    weights = softmax_kept_in_float32(scores + mask.astype(jnp.float32), "")
    return jnp.matmul(weights, wide[2]).astype(q.dtype)


def attention_grouped(
    q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array, scaling: float
) -> jax.Array:
    """Query heads of a group beside each other, keys and values not repeated."""
    *lead, heads, tokens, d = q.shape
    kv = k.shape[-3]
    q = q.reshape(*lead, kv, heads // kv, tokens, d)  # [..., k, g, t, d]
    scores = jnp.einsum("...kgtd,...ksd->...kgts", q, k) * scaling + mask[..., None, :, :]
    context = jnp.einsum("...kgts,...ksd->...kgtd", ops.softmax(scores, str(q.dtype)), v)
    return context.reshape(*lead, heads, tokens, d)


def attention_scaled_queries(
    q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array, scaling: float
) -> jax.Array:
    """The factor on the queries instead of the scores."""
    return ops.eager_attention_forward(q * scaling, k, v, mask, 1.0)


def attention_masked_by_where(
    q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array, scaling: float
) -> jax.Array:
    """Scores replaced where the mask is not 0, instead of a sum."""
    groups = q.shape[-3] // k.shape[-3]
    k, v = ops.repeat_kv(k, groups), ops.repeat_kv(v, groups)
    scores = jnp.matmul(q, jnp.swapaxes(k, -1, -2)) * scaling
    scores = jnp.where(mask == 0, scores, jnp.finfo(scores.dtype).min)
    return jnp.matmul(ops.softmax(scores, str(q.dtype)), v)


def attention_in_blocks(
    q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array, scaling: float
) -> jax.Array:
    """Keys in blocks, with a running maximum and sum in float32, as flash attention does."""
    groups, tokens = q.shape[-3] // k.shape[-3], k.shape[-2]
    k, v = ops.repeat_kv(k, groups), ops.repeat_kv(v, groups)
    wide = [x.astype(jnp.float32) for x in (q, k, v)]
    lead = q.shape[:-1]
    top, total = jnp.full(lead, -jnp.inf), jnp.zeros(lead)
    mixed = jnp.zeros(q.shape, jnp.float32)
    for start in range(0, tokens, BLOCK):
        part = slice(start, start + BLOCK)
        scores = jnp.matmul(wide[0], jnp.swapaxes(wide[1][..., part, :], -1, -2)) * scaling
        scores = scores + mask[..., part].astype(jnp.float32)
        now = jnp.maximum(top, scores.max(-1))
        weights, old = jnp.exp(scores - now[..., None]), jnp.exp(top - now)
        total = total * old + weights.sum(-1)
        mixed = mixed * old[..., None] + jnp.matmul(weights, wide[2][..., part, :])
        top = now
    return (mixed / total[..., None]).astype(q.dtype)


def mask_of_minus_a_billion(
    input_ids: jax.Array, attention_mask: jax.Array | None, dtype: str
) -> jax.Array:
    """-1e9 instead of the lowest number."""
    mask = ops.causal_mask(input_ids, attention_mask, dtype)
    return jnp.where(mask == 0, 0.0, -1e9).astype(dtype)


def silu_in_float32(x: jax.Array) -> jax.Array:
    """Rounded once, at the end."""
    return jax.nn.silu(x.astype(jnp.float32)).astype(x.dtype)


def silu_by_division(x: jax.Array) -> jax.Array:
    """x / (1 + exp(-x))."""
    wide = x.astype(jnp.float32)
    return (wide / (1 + jnp.exp(-wide))).astype(x.dtype)


def rotary_in_float32(
    q: jax.Array, k: jax.Array, cos: jax.Array, sin: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Queries and keys turned in float32 and rounded once."""
    wide = [x.astype(jnp.float32) for x in (q, k, cos, sin)]
    turned = ops.apply_rotary_pos_emb(wide[0], wide[1], wide[2], wide[3])
    return turned[0].astype(q.dtype), turned[1].astype(k.dtype)


def rotary_tables_interleaved(
    position_ids: jax.Array, frequencies: np.ndarray, scaling: float, dtype: str
) -> tuple[jax.Array, jax.Array]:
    """Each angle twice in a row, for pairs of neighbours."""
    angles = position_ids[..., None].astype(jnp.float32) * frequencies  # [..., t, d/2]
    angles = jnp.repeat(angles, 2, axis=-1)  # [..., t, d]
    return (jnp.cos(angles) * scaling).astype(dtype), (jnp.sin(angles) * scaling).astype(dtype)


def rotate_neighbours(x: jax.Array) -> jax.Array:
    """A quarter turn in every plane (2i, 2i + 1), for weights whose rows are ordered so."""
    even, odd = x[..., 0::2], x[..., 1::2]  # [..., t, d/2] each
    return jnp.stack([-odd, even], axis=-1).reshape(x.shape)


def no_scaling(_head_dim: int) -> float:
    """1: the factor lies in the weights."""
    return 1.0


def residual_in_float32(residual: jax.Array, branch: jax.Array) -> jax.Array:
    """Added in float32 and rounded once."""
    return (residual.astype(jnp.float32) + branch.astype(jnp.float32)).astype(residual.dtype)
