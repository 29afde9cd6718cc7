"""Wrong versions of what the Gemma port does, each as small as the mistake. Apart, so that the port stays readable."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def plain_rms_norm(x: jax.Array, scale: jax.Array, eps: float) -> jax.Array:
    """Llama's convention: the stored scale is the factor itself."""
    wide = x.astype(jnp.float32)
    normed = wide * jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + eps)
    return (normed * scale).astype(x.dtype)


def embedding_unscaled(x: jax.Array, width: int) -> jax.Array:
    """Not times the root of the width."""
    del width
    return x


def embedding_scale_in_bfloat16(x: jax.Array, width: int) -> jax.Array:
    """The factor is rounded to bfloat16, whatever the embeddings' dtype is."""
    return x * jnp.asarray(width**0.5, jnp.bfloat16).astype(x.dtype)


def gelu_exact(x: jax.Array) -> jax.Array:
    """With the error function; Gemma's is the tanh form."""
    return jax.nn.gelu(x, approximate=False)


def attention_scaling_by_width(head_dim: int) -> float:
    """1 / head_dim."""
    return 1 / head_dim
