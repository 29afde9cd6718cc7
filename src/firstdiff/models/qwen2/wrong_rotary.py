"""Wrong versions of what `ops` does with positions, each as small as the mistake."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax.numpy as jnp

from firstdiff.models.qwen2 import ops

if TYPE_CHECKING:
    import jax
    import numpy as np

    Pair = tuple[jax.Array, jax.Array]


def rotate_half_negative(x: jax.Array) -> jax.Array:
    """Turns backwards."""
    return -ops.rotate_half(x)


def apply_to_neither(q: jax.Array, k: jax.Array, cos: jax.Array, sin: jax.Array) -> Pair:
    """Forgets the rotation."""
    del cos, sin
    return q, k


def apply_to_queries(q: jax.Array, k: jax.Array, cos: jax.Array, sin: jax.Array) -> Pair:
    """Forgets the keys."""
    return ops.apply_rotary_pos_emb(q, k, cos, sin)[0], k


def apply_exchanged(q: jax.Array, k: jax.Array, cos: jax.Array, sin: jax.Array) -> Pair:
    """cos and sin exchanged."""
    return ops.apply_rotary_pos_emb(q, k, sin, cos)


def apply_queries_ahead(q: jax.Array, k: jax.Array, cos: jax.Array, sin: jax.Array) -> Pair:
    """The queries one position ahead of the keys."""
    next_cos, next_sin = (jnp.concatenate([x[..., 1:, :], x[..., -1:, :]], -2) for x in (cos, sin))
    ahead, _ = ops.apply_rotary_pos_emb(q, k, next_cos, next_sin)
    return ahead, ops.apply_rotary_pos_emb(q, k, cos, sin)[1]


def tables_repeated(
    position_ids: jax.Array, frequencies: np.ndarray, scaling: float, dtype: str
) -> Pair:
    """Each angle twice in a row, as interleaved pairs want it."""
    angles = position_ids[..., None].astype(jnp.float32) * frequencies  # [..., t, d/2]
    angles = jnp.repeat(angles, 2, axis=-1)  # [..., t, d]
    return (jnp.cos(angles) * scaling).astype(dtype), (jnp.sin(angles) * scaling).astype(dtype)


def tables_from_bfloat16(
    position_ids: jax.Array, frequencies: np.ndarray, scaling: float, dtype: str
) -> Pair:
    """The frequencies rounded to bfloat16, as casting a whole model does."""
    rounded = jnp.asarray(frequencies).astype(jnp.bfloat16).astype(jnp.float32)
    return ops.rotary_tables(position_ids, rounded, scaling, dtype)  # type: ignore[arg-type]  # an array either way


def tables_backwards(
    position_ids: jax.Array, frequencies: np.ndarray, scaling: float, dtype: str
) -> Pair:
    """The sine with the other sign: angles count backwards."""
    return ops.rotary_tables(-position_ids, frequencies, scaling, dtype)
