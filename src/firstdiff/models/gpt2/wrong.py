"""Wrong versions of what the GPT-2 port does, each as small as the mistake. Apart, so that the port stays readable."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import numpy as np

if TYPE_CHECKING:
    from flax import linen


def gelu_exact(x: jax.Array) -> jax.Array:
    """With the error function; `gelu_new` is the tanh form."""
    return jax.nn.gelu(x, approximate=False)


def split_qkv_rotated(kernel: np.ndarray, heads: int) -> list[np.ndarray]:
    """Takes c_attn [..., 3e] for key, query, value."""
    del heads
    key, query, value = np.split(kernel, 3, axis=-1)
    return [query, key, value]


def split_qkv_by_head(kernel: np.ndarray, heads: int) -> list[np.ndarray]:
    """Takes c_attn for [..., h, 3, d], as GPT-NeoX and Megatron store it."""
    parts = kernel.reshape(*kernel.shape[:-1], heads, 3, -1)  # [..., h, 3, d]
    return [parts[..., n, :].reshape(*kernel.shape[:-1], -1) for n in range(3)]


def rms_norm(eps: float, name: str) -> linen.Module:
    """Neither centred nor with a bias."""
    from flax import linen as nn

    options: dict[str, Any] = {"use_fast_variance": False, "name": name}
    return nn.RMSNorm(eps, **options)


def add_positions_one_off(tokens: jax.Array, positions: jax.Array) -> jax.Array:
    """Each token gets the position of the one behind it."""
    return tokens.at[:, :-1].add(positions[:, 1:]).at[:, -1].add(positions[:, -1])


def add_positions_none(tokens: jax.Array, positions: jax.Array) -> jax.Array:
    """Leaves the learned positions out."""
    del positions
    return tokens
