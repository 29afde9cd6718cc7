"""Wrong versions of what `ops` does in attention, each as small as the mistake."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from firstdiff.models.qwen2 import ops


def scaling_by_head_dim(head_dim: int) -> float:
    """1 / head_dim, without the root."""
    return 1.0 / head_dim


def scaling_by_four_heads(head_dim: int) -> float:
    """1 / sqrt(4 head_dim): of the hidden size, where there are four heads."""
    return float((4 * head_dim) ** -0.5)


def scaling_off_by_a_percent(head_dim: int) -> float:
    """1.01 / sqrt(head_dim)."""
    return float(1.01 * head_dim**-0.5)


def softmax_over_queries(scores: jax.Array, dtype: str) -> jax.Array:
    """The second last axis instead of the last."""
    return jax.nn.softmax(scores.astype(jnp.float32), axis=-2).astype(dtype)


def softmax_with_dropout(scores: jax.Array, dtype: str) -> jax.Array:
    """Dropout of a tenth left on."""
    weights = ops.softmax(scores, dtype)
    kept = jax.random.bernoulli(jax.random.key(0), 0.9, weights.shape)
    return jnp.where(kept, weights / 0.9, 0).astype(dtype)


def attention_without_mask(
    q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array, scaling: float
) -> jax.Array:
    """The mask is taken and not used."""
    return ops.eager_attention_forward(q, k, v, jnp.zeros_like(mask), scaling)


def attention_with_weak_mask(
    q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array, scaling: float
) -> jax.Array:
    """-10 where the mask hides."""
    return ops.eager_attention_forward(q, k, v, jnp.maximum(mask, -10), scaling)


def attention_one_token_ahead(
    q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array, scaling: float
) -> jax.Array:
    """Each query sees what the next one may see."""
    later = jnp.concatenate([mask[..., 1:, :], mask[..., -1:, :]], axis=-2)
    return ops.eager_attention_forward(q, k, v, jnp.maximum(mask, later), scaling)


def attention_exchanged(
    q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array, scaling: float
) -> jax.Array:
    """Keys and values exchanged."""
    return ops.eager_attention_forward(q, v, k, mask, scaling)


def attention_last_slot_empty(
    q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array, scaling: float
) -> jax.Array:
    """The last key and value were not written to the cache yet."""
    k, v = (x.at[..., -1, :].set(0) for x in (k, v))
    return ops.eager_attention_forward(q, k, v, mask, scaling)


def attention_in_bfloat16(
    q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array, scaling: float
) -> jax.Array:
    """Queries, keys and values rounded to bfloat16 first."""
    q, k, v = (jax.lax.reduce_precision(x, 8, 7) for x in (q, k, v))
    return ops.eager_attention_forward(q, k, v, mask, scaling)


def causal_mask_one_ahead(
    input_ids: jax.Array, attention_mask: jax.Array | None, dtype: str
) -> jax.Array:
    """key <= query + 1."""
    mask = ops.causal_mask(input_ids, attention_mask, dtype)
    real = mask[..., -1:, :] == 0
    ahead = jnp.tril(jnp.ones(mask.shape[-2:], bool), 1)
    return jnp.where(real & ahead, 0.0, jnp.finfo(dtype).min).astype(dtype)


def causal_mask_strict(
    input_ids: jax.Array, attention_mask: jax.Array | None, dtype: str
) -> jax.Array:
    """key < query: no token sees itself."""
    mask = ops.causal_mask(input_ids, attention_mask, dtype)
    own = jnp.eye(mask.shape[-1], dtype=bool)
    return jnp.where(own, jnp.finfo(dtype).min, mask).astype(dtype)


def causal_mask_infinite(
    input_ids: jax.Array, attention_mask: jax.Array | None, dtype: str
) -> jax.Array:
    """-inf where hidden: a row that sees nothing has no softmax."""
    mask = ops.causal_mask(input_ids, attention_mask, dtype)
    return jnp.where(mask < 0, -jnp.inf, mask).astype(dtype)


def causal_mask_with_window(
    input_ids: jax.Array, attention_mask: jax.Array | None, dtype: str
) -> jax.Array:
    """A sliding window of eight tokens that the model does not have."""
    mask = ops.causal_mask(input_ids, attention_mask, dtype)
    near = jnp.triu(jnp.ones(mask.shape[-2:], bool), -7)
    return jnp.where(near, mask, jnp.finfo(dtype).min).astype(dtype)


def split_heads_by_reshape(x: jax.Array, head_dim: int) -> jax.Array:
    """[..., t, h*d] -> [..., h, t, d] without a swap."""
    return x.reshape(*x.shape[:-2], -1, x.shape[-2], head_dim)


def split_heads_channels_first(x: jax.Array, head_dim: int) -> jax.Array:
    """Reads [..., t, d, h] instead of [..., t, h, d]."""
    x = x.reshape(*x.shape[:-1], head_dim, -1)  # [..., t, d, h]
    return jnp.moveaxis(x, -1, -3)  # [..., h, t, d]


def merge_heads_channels_first(x: jax.Array) -> jax.Array:
    """[..., h, t, d] -> [..., t, d*h]."""
    x = jnp.moveaxis(x, -3, -1)  # [..., t, d, h]
    return x.reshape(*x.shape[:-2], -1)
