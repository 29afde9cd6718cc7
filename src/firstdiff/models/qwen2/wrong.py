"""Wrong versions of the functions in `ops`, each as small as the mistake. Apart, so that `ops` stays readable."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from firstdiff.models.qwen2 import ops


def rotate_half_interleaved(x: jax.Array) -> jax.Array:
    """Pairs even channels with odd ones, as Meta's weights want it; Hugging Face's want halves."""
    turned = jnp.stack([-x[..., 1::2], x[..., ::2]], axis=-1)  # [..., t, d/2, 2]
    return turned.reshape(x.shape)  # [..., t, d]


def repeat_kv_tiled(x: jax.Array, groups: int) -> jax.Array:
    """0 1 0 1 instead of 0 0 1 1: [..., k, t, d] -> [..., h, t, d]."""
    return jnp.tile(x, (groups, 1, 1))


def attention_scaling_none(head_dim: int) -> float:
    """No factor at all."""
    del head_dim
    return 1.0


def causal_mask_without_padding(
    input_ids: jax.Array, attention_mask: jax.Array | None, dtype: str
) -> jax.Array:
    """Looks at padded tokens."""
    del attention_mask
    return ops.causal_mask(input_ids, None, dtype)


def causal_mask_without_causality(
    input_ids: jax.Array, attention_mask: jax.Array | None, dtype: str
) -> jax.Array:
    """Looks at later tokens; [..., 1, t, t]."""
    both = ops.causal_mask(input_ids, attention_mask, dtype)
    return jnp.broadcast_to(both[..., -1:, :], both.shape)


def rms_norm_one_plus(x: jax.Array, scale: jax.Array, eps: float) -> jax.Array:
    """Gemma's convention: the stored scale is an offset from one."""
    return ops.rms_norm(x, 1 + scale, eps)


def rms_norm_centred(x: jax.Array, scale: jax.Array, eps: float) -> jax.Array:
    """A layer norm without bias: subtracts the mean."""
    return ops.rms_norm(x - jnp.mean(x, axis=-1, keepdims=True), scale, eps)


def gelu(x: jax.Array) -> jax.Array:
    """Another smooth gate."""
    return jax.nn.gelu(x, approximate=False)


def softmax_in_bfloat16(scores: jax.Array, dtype: str) -> jax.Array:
    """Every step rounded to bfloat16."""
    lowest = jnp.finfo(
        jnp.bfloat16
    ).min  # float32's lowest would round to -inf, and a row of them to NaN
    narrow = jnp.maximum(scores, lowest).astype(jnp.bfloat16)
    powers = jnp.exp(narrow - jnp.max(narrow, axis=-1, keepdims=True))
    return (powers / jnp.sum(powers, axis=-1, keepdims=True, dtype=jnp.bfloat16)).astype(dtype)


def add_residual_missing(residual: jax.Array, branch: jax.Array) -> jax.Array:
    """Drops the stream."""
    del residual
    return branch


def default_position_ids_plus_one(input_ids: jax.Array) -> jax.Array:
    """1, 2, 3, ...: harmless, since rotary attention sees differences alone."""
    return jnp.arange(1, input_ids.shape[-1] + 1, dtype=jnp.int32)[None]


def merge_heads_without_swap(x: jax.Array) -> jax.Array:
    """[..., h, t, d] -> [..., t, h*d] by a reshape alone, which mixes heads and tokens."""
    heads, tokens, dim = x.shape[-3:]
    return x.reshape(*x.shape[:-3], tokens, heads * dim)
