"""GPT-2 in Flax linen, as a port writes it that does not fuse: query, key and value are three layers of their own.

b = batch, t = tokens, h = heads, d = head_dim, e = hidden size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import flax.linen as nn
import jax
import numpy as np

from firstdiff.models.linen_subject import linen_subject
from firstdiff.models.qwen2 import ops
from firstdiff.models.qwen2.output import CausalLMOutput

if TYPE_CHECKING:
    from firstdiff.models.ported import Checkpoint
    from firstdiff.models.subject import Subject

Config = Any


def gelu(x: jax.Array) -> jax.Array:
    """`gelu_new`: the tanh form."""
    return jax.nn.gelu(x, approximate=True)


def split_qkv(kernel: np.ndarray, heads: int) -> list[np.ndarray]:
    """The checkpoint's c_attn [..., 3e]: query, key and value one behind the other, all heads of each together."""
    del heads
    return np.split(kernel, 3, axis=-1)


def layer_norm(eps: float, name: str) -> nn.Module:
    """Centred, with scale and bias."""
    return nn.LayerNorm(eps, use_fast_variance=False, name=name)


def add_positions(tokens: jax.Array, positions: jax.Array) -> jax.Array:
    """[b, t, e] and [1, t, e] -> [b, t, e]."""
    return tokens + positions


class Activation(nn.Module):
    """The activation, as a module of its own."""

    def __call__(self, x: jax.Array) -> jax.Array:
        """Elementwise."""
        return gelu(x)


class Attention(nn.Module):
    """Causal self-attention."""

    config: Config

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        """[b, t, e], additive mask [b, 1, t, t] -> [b, t, e]."""
        width = self.config["n_embd"]
        d = width // self.config["n_head"]
        q = ops.split_heads(nn.Dense(width, name="query")(x), d)  # [b, h, t, d]
        k = ops.split_heads(nn.Dense(width, name="key")(x), d)  # [b, h, t, d]
        v = ops.split_heads(nn.Dense(width, name="value")(x), d)  # [b, h, t, d]
        context = ops.eager_attention_forward(q, k, v, mask, ops.attention_scaling(d))
        return nn.Dense(width, name="out")(ops.merge_heads(context))  # [b, t, e]


class MLP(nn.Module):
    """Feed-forward block."""

    config: Config

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[b, t, e] -> the same."""
        width = self.config["n_embd"]
        wide = self.config["n_inner"] or 4 * width
        return nn.Dense(width, name="c_proj")(
            Activation(name="act")(nn.Dense(wide, name="c_fc")(x))
        )


class Block(nn.Module):
    """Attention and feed-forward, each behind a norm and added to the residual stream."""

    config: Config

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        """[b, t, e] -> the same."""
        eps = self.config["layer_norm_epsilon"]
        normed = layer_norm(eps, "ln_1")(x)
        x = ops.add_residual(x, Attention(self.config, name="attn")(normed, mask))
        normed = layer_norm(eps, "ln_2")(x)
        return ops.add_residual(x, MLP(self.config, name="mlp")(normed))


class GPT2(nn.Module):
    """Token ids in, logits out; the head is the embedding."""

    config: Config

    @nn.compact
    def __call__(
        self, input_ids: jax.Array, attention_mask: jax.Array | None = None
    ) -> CausalLMOutput:
        """Ids [b, t], mask [b, t] (1 = real token) -> logits [b, t, vocabulary]."""
        c = self.config
        wte = nn.Embed(c["vocab_size"], c["n_embd"], name="wte")
        wpe = nn.Embed(c["n_positions"], c["n_embd"], name="wpe")
        x = add_positions(wte(input_ids), wpe(ops.default_position_ids(input_ids)))  # [b, t, e]
        mask = ops.causal_mask(input_ids, attention_mask, "float32")
        for number in range(c["n_layer"]):
            x = Block(c, name=f"h_{number}")(x, mask)
        x = layer_norm(c["layer_norm_epsilon"], "ln_f")(x)
        return CausalLMOutput(wte.attend(x))


def build(checkpoint: Checkpoint) -> Subject:
    """The subject: a parameter tree beside the linen module."""
    return linen_subject(GPT2(checkpoint.config), parameters(checkpoint))


def parameters(checkpoint: Checkpoint) -> dict[str, Any]:
    """The nested parameter tree. Conv1D keeps its weight as [in, out]: nothing is transposed."""
    tree: dict[str, Any] = {
        "wte": checkpoint.embedding("transformer.wte"),
        "wpe": checkpoint.embedding("transformer.wpe"),
        "ln_f": checkpoint.norm("transformer.ln_f"),
    }
    heads = checkpoint.config["n_head"]
    for number in range(checkpoint.config["n_layer"]):
        layer = f"transformer.h.{number}"
        kernels = split_qkv(checkpoint.read(f"{layer}.attn.c_attn.weight"), heads)
        biases = split_qkv(checkpoint.read(f"{layer}.attn.c_attn.bias"), heads)
        projections = {
            name: {"kernel": kernel, "bias": bias}
            for name, kernel, bias in zip(("query", "key", "value"), kernels, biases, strict=True)
        }
        tree[f"h_{number}"] = {
            "ln_1": checkpoint.norm(f"{layer}.ln_1"),
            "attn": {**projections, "out": _conv1d(checkpoint, f"{layer}.attn.c_proj")},
            "ln_2": checkpoint.norm(f"{layer}.ln_2"),
            "mlp": {
                name: _conv1d(checkpoint, f"{layer}.mlp.{name}") for name in ("c_fc", "c_proj")
            },
        }
    return tree


def _conv1d(checkpoint: Checkpoint, name: str) -> dict[str, np.ndarray]:
    return {"kernel": checkpoint.read(f"{name}.weight"), "bias": checkpoint.read(f"{name}.bias")}
