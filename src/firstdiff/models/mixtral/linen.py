"""Mixtral in Flax linen. Every expert sees every token and the router weighs what they say: no gather, no scatter.

`experts` is `batched`, one module with parameters [experts, ...], or `looped`, a module for each.
b = batch, t = tokens, n = b*t, e = hidden size, x = experts, h = heads, k = key-value heads, d = head_dim.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Literal

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
Experts = Literal["batched", "looped"]


def route(logits: jax.Array, top_k: int) -> tuple[jax.Array, jax.Array]:
    """Router logits [n, x] -> float32 weights [n, top_k], which add up to one, and experts [n, top_k]."""
    probabilities = jax.nn.softmax(logits.astype(jnp.float32), axis=-1)
    weights, chosen = jax.lax.top_k(probabilities, top_k)
    return weights / weights.sum(axis=-1, keepdims=True), chosen


def combine(results: jax.Array, weights: jax.Array, chosen: jax.Array) -> jax.Array:
    """Results of all experts [x, n, e], weighed by the router: -> [n, e]."""
    experts = jax.nn.one_hot(chosen, results.shape[0], dtype=results.dtype)  # [n, top_k, x]
    shares = jnp.einsum("nk,nkx->xn", weights, experts)
    return jnp.einsum("xn,xne->ne", shares, results).astype(results.dtype)


class RMSNorm(nn.Module):
    """Root mean square norm with a learned scale."""

    config: Config

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[b, t, e] -> the same."""
        scale = self.param("scale", nn.initializers.ones, (self.config["hidden_size"],))
        return ops.rms_norm(x, scale, self.config["rms_norm_eps"])


class Rotary(nn.Module):
    """cos and sin for every position; no parameters."""

    config: Config

    def __call__(self, x: jax.Array, position_ids: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Positions [1, t] -> cos and sin [1, t, d]."""
        c = self.config
        shape = SimpleNamespace(
            head_dim=_head_dim(c),
            rope_theta=c["rope_parameters"]["rope_theta"],
            rope_scaling=None,
        )
        return ops.rotary_tables(position_ids, *inverse_frequencies(shape), str(x.dtype))  # type: ignore[arg-type]  # it reads these three fields


class Attention(nn.Module):
    """Grouped-query attention with rotary positions, without biases."""

    config: Config

    @nn.compact
    def __call__(
        self, x: jax.Array, mask: jax.Array, position_embeddings: tuple[jax.Array, jax.Array]
    ) -> jax.Array:
        """[b, t, e], mask [b, 1, t, t] -> [b, t, e]."""
        c, d = self.config, _head_dim(self.config)
        heads = {"wq": c["num_attention_heads"]}
        q, k, v = (
            ops.split_heads(
                nn.Dense(heads.get(name, c["num_key_value_heads"]) * d, use_bias=False, name=name)(
                    x
                ),
                d,
            )
            for name in ("wq", "wk", "wv")
        )  # [b, h or k, t, d]
        q, k = ops.apply_rotary_pos_emb(q, k, *position_embeddings)
        context = ops.eager_attention_forward(q, k, v, mask, ops.attention_scaling(d))
        out = nn.Dense(c["hidden_size"], use_bias=False, name="wo")
        result: jax.Array = out(ops.merge_heads(context))
        return result


class Expert(nn.Module):
    """A gated feed-forward block."""

    config: Config

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[n, e] -> the same."""
        wide, width = self.config["intermediate_size"], self.config["hidden_size"]
        gate = nn.Dense(wide, use_bias=False, name="w1")(x)
        up = nn.Dense(wide, use_bias=False, name="w3")(x)
        result: jax.Array = nn.Dense(width, use_bias=False, name="w2")(ops.silu(gate) * up)
        return result


class AllExperts(nn.Module):
    """The experts, and the sum of what they say."""

    config: Config
    experts: Experts

    @nn.compact
    def __call__(self, x: jax.Array, weights: jax.Array, chosen: jax.Array) -> jax.Array:
        """[n, e], weights and experts [n, top_k] -> [n, e]."""
        count = self.config["num_local_experts"]
        if self.experts == "looped":
            results = jnp.stack([Expert(self.config, name=f"{n}")(x) for n in range(count)])
        else:
            batched = nn.vmap(
                Expert,
                in_axes=None,
                out_axes=0,
                variable_axes={"params": 0},
                split_rngs={"params": True},
                axis_size=count,
            )
            results = batched(self.config, name="expert")(x)  # [x, n, e]
        return combine(results, weights, chosen)


class SparseMoE(nn.Module):
    """Router and experts."""

    config: Config
    experts: Experts

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[b, t, e] -> the same."""
        flat = x.reshape(-1, x.shape[-1])  # [n, e]
        logits = nn.Dense(self.config["num_local_experts"], use_bias=False, name="gate")(flat)
        weights, chosen = route(logits, self.config["num_experts_per_tok"])
        mixed = AllExperts(self.config, self.experts, name="experts")(flat, weights, chosen)
        return mixed.reshape(x.shape)


class Layer(nn.Module):
    """Attention and experts, each behind a norm and added to the residual stream."""

    config: Config
    experts: Experts

    @nn.compact
    def __call__(
        self, x: jax.Array, mask: jax.Array, position_embeddings: tuple[jax.Array, jax.Array]
    ) -> jax.Array:
        """[b, t, e] -> the same."""
        normed = RMSNorm(self.config, name="attention_norm")(x)
        branch = Attention(self.config, name="attention")(normed, mask, position_embeddings)
        x = ops.add_residual(x, branch)
        normed = RMSNorm(self.config, name="ffn_norm")(x)
        return ops.add_residual(x, SparseMoE(self.config, self.experts, name="mlp")(normed))


class Mixtral(nn.Module):
    """Token ids in, logits out."""

    config: Config
    experts: Experts = "batched"

    @nn.compact
    def __call__(
        self, input_ids: jax.Array, attention_mask: jax.Array | None = None
    ) -> CausalLMOutput:
        """Ids [b, t], mask [b, t] (1 = real token) -> logits [b, t, vocabulary]."""
        c = self.config
        x = nn.Embed(c["vocab_size"], c["hidden_size"], name="tok_embeddings")(input_ids)
        tables = Rotary(c, name="rotary_emb")(x, ops.default_position_ids(input_ids))
        mask = ops.causal_mask(input_ids, attention_mask, "float32")
        for number in range(c["num_hidden_layers"]):
            x = Layer(c, self.experts, name=f"layers_{number}")(x, mask, tables)
        x = RMSNorm(c, name="norm")(x)
        return CausalLMOutput(nn.Dense(c["vocab_size"], use_bias=False, name="output")(x))


def build(checkpoint: Checkpoint, *, experts: Experts = "batched") -> Subject:
    """The subject: a parameter tree beside the linen module."""
    return linen_subject(Mixtral(checkpoint.config, experts), parameters(checkpoint, experts))


def parameters(checkpoint: Checkpoint, experts: Experts) -> dict[str, Any]:
    """The nested parameter tree; experts' kernels are [x, in, out], or one [in, out] each."""
    tree: dict[str, Any] = {
        "tok_embeddings": checkpoint.embedding("model.embed_tokens"),
        "norm": {"scale": checkpoint.read("model.norm.weight")},
        "output": checkpoint.linear("lm_head"),
    }
    for number in range(checkpoint.config["num_hidden_layers"]):
        layer = f"model.layers.{number}"
        tree[f"layers_{number}"] = {
            "attention_norm": {"scale": checkpoint.read(f"{layer}.input_layernorm.weight")},
            "ffn_norm": {"scale": checkpoint.read(f"{layer}.post_attention_layernorm.weight")},
            "attention": {
                f"w{name}": checkpoint.linear(f"{layer}.self_attn.{name}_proj") for name in "qkvo"
            },
            "mlp": {
                "gate": checkpoint.linear(f"{layer}.mlp.gate"),
                "experts": _experts(checkpoint, f"{layer}.mlp.experts", experts),
            },
        }
    return tree


def _experts(checkpoint: Checkpoint, name: str, experts: Experts) -> dict[str, Any]:
    """From gate_up_proj [x, 2 wide, e] and down_proj [x, e, wide]."""
    gate, up = np.split(checkpoint.read(f"{name}.gate_up_proj"), 2, axis=1)
    found = {"w1": gate, "w3": up, "w2": checkpoint.read(f"{name}.down_proj")}
    kernels = {leaf: value.swapaxes(1, 2) for leaf, value in found.items()}  # [x, in, out]
    if experts == "batched":
        return {"expert": {leaf: {"kernel": value} for leaf, value in kernels.items()}}
    count = checkpoint.config["num_local_experts"]
    return {
        str(n): {leaf: {"kernel": value[n]} for leaf, value in kernels.items()}
        for n in range(count)
    }


def _head_dim(config: Config) -> int:
    return int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])
