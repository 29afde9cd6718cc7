"""What happens *between* the modules, as plain functions named as in Hugging Face's `modeling_qwen2`.

Apart, because all ports share them and because most porting bugs live here: a seeded fault replaces exactly one
of these functions. Leading axes are free (`...`), so that a port may be batched or vmapped.
b = batch, t = tokens, h = heads, k = key-value heads, d = head_dim.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

if TYPE_CHECKING:
    import numpy as np


def default_position_ids(input_ids: jax.Array) -> jax.Array:
    """0, 1, 2, ... whatever the mask says, as Qwen2 does; [1, t] so that it broadcasts over the batch."""
    return jnp.arange(input_ids.shape[-1], dtype=jnp.int32)[None]


def causal_mask(input_ids: jax.Array, attention_mask: jax.Array | None, dtype: str) -> jax.Array:
    """Added to the scores: 0 where a query may look, the dtype's lowest number elsewhere; [..., 1, t, t]."""
    tokens = input_ids.shape[-1]
    visible = jnp.tril(jnp.ones((tokens, tokens), dtype=bool))  # [t, t]
    visible = jnp.broadcast_to(
        visible, (*input_ids.shape[:-1], 1, tokens, tokens)
    )  # [..., 1, t, t]
    if attention_mask is not None:
        visible = visible & attention_mask.astype(bool)[..., None, None, :]  # [..., 1, t, t]
    return jnp.where(visible, 0.0, jnp.finfo(dtype).min).astype(dtype)


def cached_position_ids(
    position_ids: jax.Array | None, input_ids: jax.Array, written: jax.Array
) -> jax.Array:
    """Positions of new tokens: those given, else counted on from the ``written`` ones; [1 or b, t]."""
    if position_ids is not None:
        return position_ids
    return written + default_position_ids(input_ids)


def cached_mask(
    input_ids: jax.Array, attention_mask: jax.Array, written: jax.Array, dtype: str
) -> jax.Array:
    """Like `causal_mask` for new tokens after ``written`` ones: over every place of the cache, [b, 1, t, length]."""
    tokens, length = input_ids.shape[-1], attention_mask.shape[-1]
    newest = written + jnp.arange(tokens)[:, None]  # [t, 1]
    visible = jnp.arange(length) <= newest  # [t, length]
    visible = visible & attention_mask.astype(bool)[..., None, None, :]  # [b, 1, t, length]
    return jnp.where(visible, 0.0, jnp.finfo(dtype).min).astype(dtype)


def write_cache(cached: jax.Array, new: jax.Array, written: jax.Array) -> jax.Array:
    """``cached`` [b, k, length, d] with ``new`` [b, k, t, d] behind the ``written`` tokens."""
    return jax.lax.dynamic_update_slice_in_dim(cached, new, written, axis=-2)


def rotary_tables(
    position_ids: jax.Array, frequencies: np.ndarray, scaling: float, dtype: str
) -> tuple[jax.Array, jax.Array]:
    """cos and sin of the angle at every position, [..., t, d]; the angles in float32, whatever the dtype."""
    angles = position_ids[..., None].astype(jnp.float32) * frequencies  # [..., t, d/2]
    angles = jnp.concatenate([angles, angles], axis=-1)  # [..., t, d]
    return (jnp.cos(angles) * scaling).astype(dtype), (jnp.sin(angles) * scaling).astype(dtype)


def rotate_half(x: jax.Array) -> jax.Array:
    """A quarter turn in every plane (i, i + d/2): the first half pairs with the second, not even with odd."""
    first, second = jnp.split(x, 2, axis=-1)  # [..., t, d/2] each
    return jnp.concatenate([-second, first], axis=-1)  # [..., t, d]


def apply_rotary_pos_emb(
    q: jax.Array, k: jax.Array, cos: jax.Array, sin: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Turn ``q`` [..., h, t, d] and ``k`` [..., k, t, d] by the angle of their position."""
    cos, sin = cos[..., None, :, :], sin[..., None, :, :]  # [..., 1, t, d]
    return q * cos + rotate_half(q) * sin, k * cos + rotate_half(k) * sin


def repeat_kv(x: jax.Array, groups: int) -> jax.Array:
    """[..., k, t, d] -> [..., h, t, d]: query heads 0 .. groups-1 share key-value head 0, and so on."""
    return jnp.repeat(x, groups, axis=-3)


def attention_scaling(head_dim: int) -> float:
    """The factor on q.k: 1 / sqrt(head_dim)."""
    return float(head_dim**-0.5)


def softmax(scores: jax.Array, dtype: str) -> jax.Array:
    """Over the keys, in float32, then rounded to ``dtype``."""
    return jax.nn.softmax(scores.astype(jnp.float32), axis=-1).astype(dtype)


def eager_attention_forward(
    q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array, scaling: float
) -> jax.Array:
    """Attention of ``q`` [..., h, t, d] over ``k``, ``v`` [..., k, t, d] -> [..., h, t, d]."""
    groups = q.shape[-3] // k.shape[-3]
    k, v = repeat_kv(k, groups), repeat_kv(v, groups)  # [..., h, t, d]
    scores = jnp.matmul(q, jnp.swapaxes(k, -1, -2)) * scaling + mask  # [..., h, t, t]
    return jnp.matmul(softmax(scores, str(q.dtype)), v)


def split_heads(x: jax.Array, head_dim: int) -> jax.Array:
    """[..., t, h*d] -> [..., h, t, d]."""
    x = x.reshape(*x.shape[:-1], -1, head_dim)  # [..., t, h, d]
    return jnp.swapaxes(x, -2, -3)


def merge_heads(x: jax.Array) -> jax.Array:
    """[..., h, t, d] -> [..., t, h*d]."""
    x = jnp.swapaxes(x, -2, -3)  # [..., t, h, d]
    return x.reshape(*x.shape[:-2], -1)


def rms_norm(x: jax.Array, scale: jax.Array, eps: float) -> jax.Array:
    """``x`` over its root mean square, in float32; rounded to the dtype *before* the scale, as Qwen2 does."""
    wide = x.astype(jnp.float32)
    variance = jnp.mean(wide * wide, axis=-1, keepdims=True)  # [..., 1]
    return scale * (wide * jax.lax.rsqrt(variance + eps)).astype(x.dtype)


def silu(x: jax.Array) -> jax.Array:
    """x * sigmoid(x)."""
    return jax.nn.silu(x)


def add_residual(residual: jax.Array, branch: jax.Array) -> jax.Array:
    """The stream plus what a branch adds to it."""
    return residual + branch
