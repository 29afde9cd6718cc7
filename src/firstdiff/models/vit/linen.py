"""ViT in Flax linen: images in NHWC inside, patches kept as a grid until the class token joins them.

b = batch, n = patches (+ 1 with the class token), h = heads, d = head_dim, e = hidden size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from firstdiff.models.linen_subject import linen_subject
from firstdiff.models.qwen2 import ops

if TYPE_CHECKING:
    import numpy as np

    from firstdiff.models.ported import Checkpoint
    from firstdiff.models.subject import Subject

Config = Any


class Output(NamedTuple):
    """Named as Hugging Face's."""

    last_hidden_state: jax.Array
    """[b, n, e]."""
    pooler_output: jax.Array
    """[b, e]."""


def gelu(x: jax.Array) -> jax.Array:
    """The exact form, with the error function."""
    return jax.nn.gelu(x, approximate=False)


def channels_last(pixels: jax.Array) -> jax.Array:
    """[b, channels, height, width], as PyTorch gives images, -> [b, height, width, channels]."""
    return jnp.transpose(pixels, (0, 2, 3, 1))


def flatten_grid(grid: jax.Array) -> jax.Array:
    """[b, rows, columns, e] -> [b, patches, e], row by row."""
    return grid.reshape(grid.shape[0], -1, grid.shape[-1])


def join_class_token(token: jax.Array, patches: jax.Array) -> jax.Array:
    """[b, 1, e] and [b, patches, e] -> [b, n, e], the class token first."""
    return jnp.concatenate([token, patches], axis=1)


def add_positions(tokens: jax.Array, positions: jax.Array) -> jax.Array:
    """[b, n, e] and [1, n, e]: the class token has a position of its own."""
    return tokens + positions


def pooled_token(tokens: jax.Array) -> jax.Array:
    """[b, n, e] -> [b, e]: the class token."""
    return tokens[:, 0]


class PatchEmbeddings(nn.Module):
    """One convolution whose stride is its size."""

    config: Config

    @nn.compact
    def __call__(self, pixels: jax.Array) -> jax.Array:
        """[b, channels, height, width] -> [b, rows, columns, e]."""
        size = (self.config["patch_size"],) * 2
        projection = nn.Conv(
            self.config["hidden_size"], size, size, padding="VALID", name="projection"
        )
        grid: jax.Array = projection(channels_last(pixels))
        return grid


class Embeddings(nn.Module):
    """Class token, patches, positions."""

    config: Config

    @nn.compact
    def __call__(self, pixels: jax.Array) -> jax.Array:
        """[b, channels, height, width] -> [b, n, e]."""
        c = self.config
        patches = flatten_grid(PatchEmbeddings(c, name="patch_embeddings")(pixels))
        count, width = patches.shape[1] + 1, c["hidden_size"]
        cls = self.param("cls_token", nn.initializers.zeros, (1, 1, width))
        positions = self.param("position_embeddings", nn.initializers.zeros, (1, count, width))
        tokens = join_class_token(jnp.tile(cls, (patches.shape[0], 1, 1)), patches)
        return add_positions(tokens, positions)  # [b, n, e]


class Attention(nn.Module):
    """Self-attention that sees every patch; projections keep the heads apart, [b, n, h, d]."""

    config: Config

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[b, n, e] -> the same."""
        heads = self.config["num_attention_heads"]
        d = self.config["hidden_size"] // heads
        q, k, v = (
            jnp.swapaxes(nn.DenseGeneral((heads, d), name=name)(x), 1, 2)  # [b, h, n, d]
            for name in ("query", "key", "value")
        )
        no_mask = jnp.zeros((1, 1, 1, 1), x.dtype)
        context = ops.eager_attention_forward(q, k, v, no_mask, ops.attention_scaling(d))
        merged = ops.merge_heads(context)  # [b, n, e]
        return nn.Dense(self.config["hidden_size"], name="out")(merged)


class MLP(nn.Module):
    """Feed-forward block."""

    config: Config

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[b, n, e] -> the same."""
        wide = nn.Dense(self.config["intermediate_size"], name="fc1")(x)
        return nn.Dense(self.config["hidden_size"], name="fc2")(gelu(wide))


class Layer(nn.Module):
    """Attention and feed-forward, each behind a norm and added to the residual stream."""

    config: Config

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[b, n, e] -> the same."""
        eps = self.config["layer_norm_eps"]
        normed = nn.LayerNorm(eps, use_fast_variance=False, name="layernorm_before")(x)
        x = ops.add_residual(x, Attention(self.config, name="attention")(normed))
        normed = nn.LayerNorm(eps, use_fast_variance=False, name="layernorm_after")(x)
        return ops.add_residual(x, MLP(self.config, name="mlp")(normed))


class Pooler(nn.Module):
    """A layer and tanh on the class token."""

    config: Config

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[b, n, e] -> [b, e]."""
        return jnp.tanh(nn.Dense(self.config["pooler_output_size"], name="dense")(pooled_token(x)))


class ViT(nn.Module):
    """Images in, features out."""

    config: Config

    @nn.compact
    def __call__(self, pixel_values: jax.Array) -> Output:
        """[b, channels, height, width] -> features of patches and image."""
        x = Embeddings(self.config, name="embeddings")(pixel_values)
        for number in range(self.config["num_hidden_layers"]):
            x = Layer(self.config, name=f"layers_{number}")(x)
        norm = nn.LayerNorm(
            self.config["layer_norm_eps"], use_fast_variance=False, name="layernorm"
        )
        x = norm(x)
        return Output(x, Pooler(self.config, name="pooler")(x))


def build(checkpoint: Checkpoint) -> Subject:
    """The subject: a parameter tree beside the linen module."""
    return linen_subject(ViT(checkpoint.config), parameters(checkpoint))


def parameters(checkpoint: Checkpoint) -> dict[str, Any]:
    """The nested parameter tree: the convolution OIHW -> HWIO, projections [e, h, d]."""
    patches = "embeddings.patch_embeddings.projection"
    tree: dict[str, Any] = {
        "embeddings": {
            "cls_token": checkpoint.read("embeddings.cls_token"),
            "position_embeddings": checkpoint.read("embeddings.position_embeddings"),
            "patch_embeddings": {
                "projection": {
                    "kernel": checkpoint.read(f"{patches}.weight").transpose(2, 3, 1, 0),
                    "bias": checkpoint.read(f"{patches}.bias"),
                }
            },
        },
        "layernorm": checkpoint.norm("layernorm"),
        "pooler": {"dense": checkpoint.linear("pooler.dense")},
    }
    for number in range(checkpoint.config["num_hidden_layers"]):
        layer = f"layers.{number}"
        tree[f"layers_{number}"] = {
            "layernorm_before": checkpoint.norm(f"{layer}.layernorm_before"),
            "layernorm_after": checkpoint.norm(f"{layer}.layernorm_after"),
            "attention": {
                **{
                    name: _by_head(checkpoint, f"{layer}.attention.{name[0]}_proj")
                    for name in ("query", "key", "value")
                },
                "out": checkpoint.linear(f"{layer}.attention.o_proj"),
            },
            "mlp": {name: checkpoint.linear(f"{layer}.mlp.{name}") for name in ("fc1", "fc2")},
        }
    return tree


def _by_head(checkpoint: Checkpoint, name: str) -> dict[str, np.ndarray]:
    """Kernel [e, h, d] and bias [h, d] of a projection that keeps the heads apart."""
    heads = checkpoint.config["num_attention_heads"]
    found = checkpoint.linear(name)
    return {
        "kernel": found["kernel"].reshape(found["kernel"].shape[0], heads, -1),
        "bias": found["bias"].reshape(heads, -1),
    }
