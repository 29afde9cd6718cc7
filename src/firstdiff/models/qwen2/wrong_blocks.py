"""Wrong versions of what `ops` does in norms, activations and residual streams, each as small as the mistake."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from firstdiff.models.qwen2 import ops


def rms_norm_eps_outside(x: jax.Array, scale: jax.Array, eps: float) -> jax.Array:
    """Adds a thousandth to the root instead of epsilon to the variance: some libraries' habit and default."""
    del eps
    wide = x.astype(jnp.float32)
    root = jnp.sqrt(jnp.mean(wide * wide, axis=-1, keepdims=True))
    return scale * (wide / (root + 1e-6)).astype(x.dtype)


def rms_norm_in_bfloat16(x: jax.Array, scale: jax.Array, eps: float) -> jax.Array:
    """Statistics and product in bfloat16."""
    return _narrow(x, scale, eps, (8, 7))


def rms_norm_in_float16(x: jax.Array, scale: jax.Array, eps: float) -> jax.Array:
    """Statistics and product in float16, without its narrow range."""
    return _narrow(x, scale, eps, (8, 10))


def _narrow(x: jax.Array, scale: jax.Array, eps: float, bits: tuple[int, int]) -> jax.Array:
    """Every step rounded; `reduce_precision` because a compiler may leave out a cast there and back."""

    def r(values: jax.Array) -> jax.Array:
        return jax.lax.reduce_precision(values, *bits)

    x, scale = r(x), r(scale)
    variance = r(jnp.mean(r(x * x), axis=-1, keepdims=True))
    return r(scale * r(x * r(jax.lax.rsqrt(r(variance + eps)))))


def rms_norm_unscaled(x: jax.Array, scale: jax.Array, eps: float) -> jax.Array:
    """Leaves out the scale."""
    return ops.rms_norm(x, jnp.ones_like(scale), eps)


def rms_norm_unbiased(x: jax.Array, scale: jax.Array, eps: float) -> jax.Array:
    """Divides by n - 1."""
    size = x.shape[-1]
    factor = (size - 1) / size
    wide = x.astype(jnp.float32)
    variance = jnp.mean(wide * wide, axis=-1, keepdims=True) / factor
    return scale * (wide * jax.lax.rsqrt(variance + eps)).astype(x.dtype)


def rms_norm_skipped(x: jax.Array, scale: jax.Array, eps: float) -> jax.Array:
    """Passes everything on."""
    del scale, eps
    return x


def relu(x: jax.Array) -> jax.Array:
    """No smooth gate."""
    return jax.nn.relu(x)


def gelu_by_tanh(x: jax.Array) -> jax.Array:
    """JAX's default GELU."""
    return jax.nn.gelu(x)


def quick_gelu(x: jax.Array) -> jax.Array:
    """x * sigmoid(1.702 x)."""
    return x * jax.nn.sigmoid(1.702 * x)


def identity(x: jax.Array) -> jax.Array:
    """No function at all."""
    return x


def residual_twice(residual: jax.Array, branch: jax.Array) -> jax.Array:
    """Adds the branch twice."""
    return residual + 2 * branch


def residual_alone(residual: jax.Array, branch: jax.Array) -> jax.Array:
    """Forgets the branch."""
    del branch
    return residual


def residual_subtracted(residual: jax.Array, branch: jax.Array) -> jax.Array:
    """The wrong sign."""
    return residual - branch
