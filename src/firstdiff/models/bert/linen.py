"""BERT in Flax linen, as a port writes it that fuses: one projection [e, h, 3, d] makes query, key and value by head.

b = batch, t = tokens, e = hidden size, h = heads, d = head_dim.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from firstdiff.models.linen_subject import linen_subject
from firstdiff.models.qwen2 import ops

if TYPE_CHECKING:
    from collections.abc import Callable

    from firstdiff.models.ported import Checkpoint
    from firstdiff.models.subject import Subject

Config = Any


class Output(NamedTuple):
    """Named as Hugging Face's."""

    last_hidden_state: jax.Array
    """[b, t, e]."""
    pooler_output: jax.Array
    """[b, e]."""


def gelu(x: jax.Array) -> jax.Array:
    """The exact form, with the error function."""
    return jax.nn.gelu(x, approximate=False)


def padding_mask(input_ids: jax.Array, attention_mask: jax.Array | None) -> jax.Array:
    """Added to the scores: 0 where a token is real, the lowest number elsewhere; [b, 1, 1, t]."""
    if attention_mask is None:
        return jnp.zeros((input_ids.shape[0], 1, 1, input_ids.shape[1]), jnp.float32)
    visible = attention_mask.astype(bool)[:, None, None, :]
    return jnp.where(visible, 0.0, jnp.finfo(jnp.float32).min)


def split_qkv(fused: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """[b, t, h, 3, d] -> query, key and value [b, h, t, d]."""
    q, k, v = (jnp.swapaxes(fused[..., n, :], 1, 2) for n in range(3))
    return q, k, v


def sum_embeddings(words: jax.Array, types: jax.Array, positions: jax.Array) -> jax.Array:
    """[b, t, e] each, or what broadcasts to it -> [b, t, e]."""
    return words + types + positions


def norm_of_sum(
    norm: Callable[[jax.Array], jax.Array], stream: jax.Array, branch: jax.Array
) -> jax.Array:
    """The norm stands behind the addition; [b, t, e]."""
    return norm(ops.add_residual(stream, branch))


def pooler_activation(x: jax.Array) -> jax.Array:
    """tanh; [b, e]."""
    return jnp.tanh(x)


def first_token(x: jax.Array) -> jax.Array:
    """[b, t, e] -> [b, e]."""
    return x[:, 0]


class Embeddings(nn.Module):
    """Words, positions and token types, added and normed."""

    config: Config

    @nn.compact
    def __call__(self, input_ids: jax.Array, token_type_ids: jax.Array | None) -> jax.Array:
        """[b, t] -> [b, t, e]."""
        c = self.config
        if token_type_ids is None:
            token_type_ids = jnp.zeros_like(input_ids)
        sizes = {
            "word_embeddings": (c["vocab_size"], input_ids),
            "token_type_embeddings": (c["type_vocab_size"], token_type_ids),
            "position_embeddings": (
                c["max_position_embeddings"],
                ops.default_position_ids(input_ids),
            ),
        }
        found = (nn.Embed(n, c["hidden_size"], name=name)(i) for name, (n, i) in sizes.items())
        return _norm(c, "LayerNorm")(sum_embeddings(*found))


class SelfAttention(nn.Module):
    """Attention over all real tokens."""

    config: Config

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        """[b, t, e], mask [b, 1, 1, t] -> [b, t, e]."""
        heads = self.config["num_attention_heads"]
        d = self.config["hidden_size"] // heads
        q, k, v = split_qkv(nn.DenseGeneral((heads, 3, d), name="qkv")(x))
        context = ops.eager_attention_forward(q, k, v, mask, ops.attention_scaling(d))
        return ops.merge_heads(context)


class AddAndNorm(nn.Module):
    """A layer, the residual stream, and a norm behind both."""

    config: Config

    @nn.compact
    def __call__(self, x: jax.Array, residual: jax.Array) -> jax.Array:
        """[b, t, ...], [b, t, e] -> [b, t, e]."""
        x = nn.Dense(self.config["hidden_size"], name="dense")(x)
        return norm_of_sum(_norm(self.config, "LayerNorm"), residual, x)


class Layer(nn.Module):
    """Attention and feed-forward, each added to the residual stream and normed after."""

    config: Config

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        """[b, t, e] -> the same."""
        c = self.config
        context = SelfAttention(c, name="attention_self")(x, mask)
        x = AddAndNorm(c, name="attention_output")(context, x)
        wide = gelu(nn.Dense(c["intermediate_size"], name="intermediate_dense")(x))
        result: jax.Array = AddAndNorm(c, name="output")(wide, x)
        return result


class Pooler(nn.Module):
    """A layer and tanh on the first token."""

    config: Config

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[b, t, e] -> [b, e]."""
        dense = nn.Dense(self.config["hidden_size"], name="dense")
        return pooler_activation(dense(first_token(x)))


class Bert(nn.Module):
    """Token ids in, features out."""

    config: Config

    @nn.compact
    def __call__(
        self,
        input_ids: jax.Array,
        attention_mask: jax.Array | None = None,
        token_type_ids: jax.Array | None = None,
    ) -> Output:
        """Ids, mask (1 = real token) and types [b, t] -> features of tokens and text."""
        x = Embeddings(self.config, name="embeddings")(input_ids, token_type_ids)
        mask = padding_mask(input_ids, attention_mask)
        for number in range(self.config["num_hidden_layers"]):
            x = Layer(self.config, name=f"layer_{number}")(x, mask)
        return Output(x, Pooler(self.config, name="pooler")(x))


def _norm(config: Config, name: str) -> nn.LayerNorm:
    return nn.LayerNorm(config["layer_norm_eps"], use_fast_variance=False, name=name)


def build(checkpoint: Checkpoint) -> Subject:
    """The subject: a parameter tree beside the linen module."""
    return linen_subject(Bert(checkpoint.config), parameters(checkpoint))


def parameters(checkpoint: Checkpoint) -> dict[str, Any]:
    """The nested parameter tree; query, key and value fused by head."""
    names = ("word_embeddings", "token_type_embeddings", "position_embeddings")
    tree: dict[str, Any] = {
        "embeddings": {
            **{name: checkpoint.embedding(f"embeddings.{name}") for name in names},
            "LayerNorm": checkpoint.norm("embeddings.LayerNorm"),
        },
        "pooler": {"dense": checkpoint.linear("pooler.dense")},
    }
    for number in range(checkpoint.config["num_hidden_layers"]):
        layer = f"encoder.layer.{number}"
        tree[f"layer_{number}"] = {
            "attention_self": {"qkv": _fused(checkpoint, f"{layer}.attention.self")},
            "attention_output": _add_and_norm(checkpoint, f"{layer}.attention.output"),
            "intermediate_dense": checkpoint.linear(f"{layer}.intermediate.dense"),
            "output": _add_and_norm(checkpoint, f"{layer}.output"),
        }
    return tree


def _fused(checkpoint: Checkpoint, name: str) -> dict[str, np.ndarray]:
    """Kernel [e, h, 3, d] and bias [h, 3, d]."""
    heads = checkpoint.config["num_attention_heads"]
    found = [checkpoint.linear(f"{name}.{part}") for part in ("query", "key", "value")]
    kernels = [f["kernel"].reshape(f["kernel"].shape[0], heads, -1) for f in found]
    biases = [f["bias"].reshape(heads, -1) for f in found]
    return {"kernel": np.stack(kernels, axis=2), "bias": np.stack(biases, axis=1)}


def _add_and_norm(checkpoint: Checkpoint, name: str) -> dict[str, Any]:
    return {
        "dense": checkpoint.linear(f"{name}.dense"),
        "LayerNorm": checkpoint.norm(f"{name}.LayerNorm"),
    }
