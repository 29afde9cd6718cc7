"""Gemma in Flax linen, with parameters and names as DeepMind's own: einsums, key and value fused, gate and up fused.

b = batch, t = tokens, e = hidden size, f = feed-forward size, h = heads, k = key-value heads, d = head_dim.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from firstdiff.models.linen_subject import linen_subject
from firstdiff.models.qwen2 import ops
from firstdiff.models.qwen2.output import CausalLMOutput
from firstdiff.models.qwen2.rope import inverse_frequencies

if TYPE_CHECKING:
    from firstdiff.models.ported import Checkpoint
    from firstdiff.models.subject import Subject

Config = Any


def gelu(x: jax.Array) -> jax.Array:
    """The tanh form."""
    return jax.nn.gelu(x, approximate=True)


def shifted_rms_norm(x: jax.Array, scale: jax.Array, eps: float) -> jax.Array:
    """``x`` over its root mean square, times one plus ``scale``, all in float32."""
    wide = x.astype(jnp.float32)
    normed = wide * jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + eps)
    return (normed * (1.0 + scale)).astype(x.dtype)


def scale_embedding(x: jax.Array, width: int) -> jax.Array:
    """Embeddings times the root of their width, rounded to their dtype first."""
    return x * jnp.asarray(width**0.5, x.dtype)


class Einsum(nn.Module):
    """A product with one learned array ``w``."""

    shape: tuple[int, ...]
    equation: str

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`einsum(equation, x, w)`."""
        w = self.param("w", nn.initializers.normal(), self.shape)
        return jnp.einsum(self.equation, x, w)


class RMSNorm(nn.Module):
    """Root mean square norm; its scale is stored minus one."""

    eps: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[b, t, e] -> the same."""
        scale = self.param("scale", nn.initializers.zeros, (x.shape[-1],))
        return shifted_rms_norm(x, scale, self.eps)


class Embedder(nn.Module):
    """Token embeddings, and the head that shares them."""

    config: Config

    def setup(self) -> None:
        """Declare the table."""
        shape = (self.config["vocab_size"], self.config["hidden_size"])
        self.input_embedding = self.param("input_embedding", nn.initializers.normal(), shape)

    def __call__(self, input_ids: jax.Array) -> jax.Array:
        """[b, t] -> [b, t, e]."""
        return scale_embedding(self.input_embedding[input_ids], self.config["hidden_size"])

    def attend(self, x: jax.Array) -> jax.Array:
        """[b, t, e] -> [b, t, vocabulary]."""
        return x @ self.input_embedding.T


class Attention(nn.Module):
    """Multi-query attention with rotary positions, without biases."""

    config: Config

    @nn.compact
    def __call__(
        self, x: jax.Array, mask: jax.Array, position_embeddings: tuple[jax.Array, jax.Array]
    ) -> jax.Array:
        """[b, t, e], mask [b, 1, t, t] -> [b, t, e]."""
        c = self.config
        h, k, d = c["num_attention_heads"], c["num_key_value_heads"], c["head_dim"]
        e = c["hidden_size"]
        q = Einsum((h, e, d), "bte,hed->bthd", name="q_einsum")(x)
        kv = Einsum((2, k, e, d), "bte,cked->cbtkd", name="kv_einsum")(x)  # [2, b, t, k, d]
        q, key, value = (jnp.swapaxes(part, 1, 2) for part in (q, kv[0], kv[1]))  # heads first
        q, key = ops.apply_rotary_pos_emb(q, key, *position_embeddings)
        context = ops.eager_attention_forward(q, key, value, mask, ops.attention_scaling(d))
        context = jnp.swapaxes(context, 1, 2)  # [b, t, h, d]
        return Einsum((h, d, e), "bthd,hde->bte", name="attn_vec_einsum")(context)


class FeedForward(nn.Module):
    """Gated feed-forward block; gate and up are one array."""

    config: Config

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[b, t, e] -> the same."""
        e, f = self.config["hidden_size"], self.config["intermediate_size"]
        both = Einsum((2, f, e), "bte,cfe->cbtf", name="gating_einsum")(x)  # [2, b, t, f]
        return Einsum((f, e), "btf,fe->bte", name="linear")(gelu(both[0]) * both[1])


class Block(nn.Module):
    """Attention and feed-forward, each behind a norm and added to the residual stream."""

    config: Config

    @nn.compact
    def __call__(
        self, x: jax.Array, mask: jax.Array, position_embeddings: tuple[jax.Array, jax.Array]
    ) -> jax.Array:
        """[b, t, e] -> the same."""
        eps = self.config["rms_norm_eps"]
        normed = RMSNorm(eps, name="pre_attention_norm")(x)
        branch = Attention(self.config, name="attn")(normed, mask, position_embeddings)
        x = ops.add_residual(x, branch)
        normed = RMSNorm(eps, name="pre_ffw_norm")(x)
        return ops.add_residual(x, FeedForward(self.config, name="mlp")(normed))


class Gemma(nn.Module):
    """Token ids in, logits out; the head is the embedding."""

    config: Config

    @nn.compact
    def __call__(
        self, input_ids: jax.Array, attention_mask: jax.Array | None = None
    ) -> CausalLMOutput:
        """Ids [b, t], mask [b, t] (1 = real token) -> logits [b, t, vocabulary]."""
        c = self.config
        embedder = Embedder(c, name="embedder")
        x = embedder(input_ids)
        shape = SimpleNamespace(
            head_dim=c["head_dim"],
            rope_theta=c["rope_parameters"]["rope_theta"],
            rope_scaling=None,
        )
        frequencies = inverse_frequencies(shape)  # type: ignore[arg-type]  # it reads these three fields
        positions = ops.default_position_ids(input_ids)
        tables = ops.rotary_tables(positions, *frequencies, str(x.dtype))
        mask = ops.causal_mask(input_ids, attention_mask, "float32")
        for number in range(c["num_hidden_layers"]):
            x = Block(c, name=f"layer_{number}")(x, mask, tables)
        x = RMSNorm(c["rms_norm_eps"], name="final_norm")(x)
        return CausalLMOutput(embedder.attend(x))


def build(checkpoint: Checkpoint) -> Subject:
    """The subject: a parameter tree beside the linen module."""
    return linen_subject(Gemma(checkpoint.config), parameters(checkpoint))


def parameters(checkpoint: Checkpoint) -> dict[str, Any]:
    """The nested parameter tree, each projection as its einsum wants it."""
    read = checkpoint.read
    tree: dict[str, Any] = {
        "embedder": {"input_embedding": read("model.embed_tokens.weight")},
        "final_norm": {"scale": read("model.norm.weight")},
    }
    for number in range(checkpoint.config["num_hidden_layers"]):
        layer = f"model.layers.{number}"
        q, k, v = (_by_head(checkpoint, f"{layer}.self_attn.{n}_proj") for n in "qkv")
        out = read(f"{layer}.self_attn.o_proj.weight").T  # [h*d, e]
        gate, up = (read(f"{layer}.mlp.{n}_proj.weight") for n in ("gate", "up"))
        tree[f"layer_{number}"] = {
            "pre_attention_norm": {"scale": read(f"{layer}.input_layernorm.weight")},
            "pre_ffw_norm": {"scale": read(f"{layer}.post_attention_layernorm.weight")},
            "attn": {
                "q_einsum": {"w": q},
                "kv_einsum": {"w": np.stack([k, v])},
                "attn_vec_einsum": {"w": out.reshape(q.shape[0], -1, out.shape[1])},
            },
            "mlp": {
                "gating_einsum": {"w": np.stack([gate, up])},
                "linear": {"w": read(f"{layer}.mlp.down_proj.weight").T},
            },
        }
    return tree


def _by_head(checkpoint: Checkpoint, name: str) -> np.ndarray:
    """A weight [heads*d, e] as [heads, e, d]."""
    weight = checkpoint.read(f"{name}.weight")
    d, e = checkpoint.config["head_dim"], weight.shape[1]
    return np.ascontiguousarray(weight.reshape(-1, d, e).transpose(0, 2, 1))
