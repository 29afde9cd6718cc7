"""Wrong versions of what `ops` does with a cache. Each is right for the prompt and wrong in every step after it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax.numpy as jnp

from firstdiff.models.qwen2 import ops

if TYPE_CHECKING:
    import jax


def write_one_late(cached: jax.Array, new: jax.Array, written: jax.Array) -> jax.Array:
    """Leaves one place free before the first new token."""
    return ops.write_cache(cached, new, jnp.where(written > 0, written + 1, written))


def write_first(cached: jax.Array, new: jax.Array, written: jax.Array) -> jax.Array:
    """Writes every token into the first place."""
    return ops.write_cache(cached, new, jnp.zeros_like(written))


def positions_anew(
    position_ids: jax.Array | None, input_ids: jax.Array, written: jax.Array
) -> jax.Array:
    """Counts from 0 with every step."""
    right = ops.cached_position_ids(position_ids, input_ids, written)
    return jnp.where(written > 0, ops.default_position_ids(input_ids), right)


def positions_with_padding(
    position_ids: jax.Array | None, input_ids: jax.Array, written: jax.Array
) -> jax.Array:
    """Takes the place in the cache for the position, which counts the padding on the left."""
    right = ops.cached_position_ids(position_ids, input_ids, written)
    return jnp.where(written > 0, written + ops.default_position_ids(input_ids), right)


def mask_one_short(
    input_ids: jax.Array, attention_mask: jax.Array, written: jax.Array, dtype: str
) -> jax.Array:
    """A new token sees those before it, but not itself."""
    before = jnp.where(written > 0, written - 1, written)
    return ops.cached_mask(input_ids, attention_mask, before, dtype)


def mask_without_padding(
    input_ids: jax.Array, attention_mask: jax.Array, written: jax.Array, dtype: str
) -> jax.Array:
    """New tokens see the padding."""
    seen = jnp.where(written > 0, jnp.ones_like(attention_mask), attention_mask)
    return ops.cached_mask(input_ids, seen, written, dtype)
