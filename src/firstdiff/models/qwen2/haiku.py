"""Qwen2 in Haiku, as one transformed function; modules named as Hugging Face names them.

b = batch, t = tokens, h = heads, k = key-value heads, d = head_dim.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import haiku as hk
import jax
import jax.numpy as jnp

from firstdiff.models.qwen2 import ops
from firstdiff.models.qwen2.output import CausalLMOutput
from firstdiff.models.qwen2.rope import inverse_frequencies
from firstdiff.models.subject import Subject

if TYPE_CHECKING:
    from firstdiff.models.qwen2.config import Qwen2Config
    from firstdiff.models.qwen2.weights import Weights

LEAVES = {"kernel": "w", "bias": "b", "scale": "scale", "embedding": "embeddings"}
"""How Haiku spells the leaves."""


class Qwen2RMSNorm(hk.Module):
    """Root mean square norm with a learned scale."""

    def __init__(self, config: Qwen2Config, name: str) -> None:
        super().__init__(name)
        self.eps = config.rms_norm_eps

    def __call__(self, hidden_states: jax.Array) -> jax.Array:
        """[..., hidden_size] -> the same."""
        size, dtype = hidden_states.shape[-1:], hidden_states.dtype
        scale = hk.get_parameter("scale", size, dtype, init=jnp.ones)
        return ops.rms_norm(hidden_states, scale, self.eps)


class Qwen2RotaryEmbedding(hk.Module):
    """cos and sin for every position; no parameters."""

    def __init__(self, config: Qwen2Config, name: str) -> None:
        super().__init__(name)
        self.config = config

    def __call__(self, x: jax.Array, position_ids: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Positions [1 or b, t] -> cos and sin [1 or b, t, d] in the dtype of ``x``."""
        return ops.rotary_tables(position_ids, *inverse_frequencies(self.config), str(x.dtype))


class SiLU(hk.Module):
    """The activation, as a module of its own."""

    def __call__(self, x: jax.Array) -> jax.Array:
        """Elementwise."""
        return ops.silu(x)


class Qwen2MLP(hk.Module):
    """Gated feed-forward block."""

    def __init__(self, config: Qwen2Config, name: str) -> None:
        super().__init__(name)
        self.config = config

    def __call__(self, x: jax.Array) -> jax.Array:
        """[b, t, hidden_size] -> the same."""
        narrow, wide = self.config.hidden_size, self.config.intermediate_size
        gate = hk.Linear(wide, with_bias=False, name="gate_proj")(x)  # [b, t, intermediate_size]
        up = hk.Linear(wide, with_bias=False, name="up_proj")(x)
        gated = SiLU("act_fn")(gate) * up
        return hk.Linear(narrow, with_bias=False, name="down_proj")(gated)


class Qwen2Attention(hk.Module):
    """Grouped-query attention with rotary positions; q, k, v have biases, o has none."""

    def __init__(self, config: Qwen2Config, name: str) -> None:
        super().__init__(name)
        self.config = config

    def __call__(
        self,
        hidden_states: jax.Array,
        attention_mask: jax.Array,
        position_embeddings: tuple[jax.Array, jax.Array],
    ) -> jax.Array:
        """[b, t, hidden_size], additive mask [b, 1, t, t], cos and sin -> [b, t, hidden_size]."""
        c, d = self.config, self.config.head_dim
        q = hk.Linear(c.num_attention_heads * d, name="q_proj")(hidden_states)  # [b, t, h*d]
        k = hk.Linear(c.num_key_value_heads * d, name="k_proj")(hidden_states)  # [b, t, k*d]
        v = hk.Linear(c.num_key_value_heads * d, name="v_proj")(hidden_states)  # [b, t, k*d]
        q, k, v = (ops.split_heads(x, d) for x in (q, k, v))  # [b, h or k, t, d]
        q, k = ops.apply_rotary_pos_emb(q, k, *position_embeddings)
        scaling = ops.attention_scaling(d)
        context = ops.eager_attention_forward(q, k, v, attention_mask, scaling)  # [b, h, t, d]
        merged = ops.merge_heads(context)  # [b, t, h*d]
        return hk.Linear(c.hidden_size, with_bias=False, name="o_proj")(merged)


class Qwen2DecoderLayer(hk.Module):
    """Attention and feed-forward, each behind a norm and added to the residual stream."""

    def __init__(self, config: Qwen2Config, name: str) -> None:
        super().__init__(name)
        self.config = config

    def __call__(
        self,
        hidden_states: jax.Array,
        attention_mask: jax.Array,
        position_embeddings: tuple[jax.Array, jax.Array],
    ) -> jax.Array:
        """[b, t, hidden_size] -> the same."""
        c = self.config
        normed = Qwen2RMSNorm(c, "input_layernorm")(hidden_states)
        branch = Qwen2Attention(c, "self_attn")(normed, attention_mask, position_embeddings)
        hidden_states = ops.add_residual(hidden_states, branch)
        normed = Qwen2RMSNorm(c, "post_attention_layernorm")(hidden_states)
        return ops.add_residual(hidden_states, Qwen2MLP(c, "mlp")(normed))


class Qwen2ForCausalLM(hk.Module):
    """Token ids in, logits out."""

    def __init__(self, config: Qwen2Config, dtype: str, *, scan: bool, remat: bool) -> None:
        super().__init__("model")
        self.config, self.dtype, self.scan, self.remat = config, dtype, scan, remat

    def __call__(
        self,
        input_ids: jax.Array,
        attention_mask: jax.Array | None = None,
        position_ids: jax.Array | None = None,
    ) -> CausalLMOutput:
        """Ids [b, t], mask [b, t] (1 = real token), positions [1 or b, t] -> logits [b, t, vocab_size]."""
        c = self.config
        embed_tokens = hk.Embed(c.vocab_size, c.hidden_size, name="embed_tokens")
        hidden_states = embed_tokens(input_ids)  # [b, t] -> [b, t, hidden_size]
        if position_ids is None:
            position_ids = ops.default_position_ids(input_ids)
        rotary_emb = Qwen2RotaryEmbedding(c, "rotary_emb")
        position_embeddings = rotary_emb(hidden_states, position_ids)
        mask = ops.causal_mask(input_ids, attention_mask, self.dtype)
        options = {"scan": self.scan, "remat": self.remat}
        hidden_states = run_layers(c, hidden_states, mask, position_embeddings, **options)
        hidden_states = Qwen2RMSNorm(c, "norm")(hidden_states)
        if c.tie_word_embeddings:
            return CausalLMOutput(hidden_states @ embed_tokens.embeddings.T)  # [b, t, vocab_size]
        head = hk.Linear(c.vocab_size, with_bias=False, name="lm_head")
        return CausalLMOutput(head(hidden_states))  # [b, t, vocab_size]


def run_layers(
    config: Qwen2Config, x: jax.Array, *shared: Any, scan: bool, remat: bool
) -> jax.Array:
    """All layers; a function, since Haiku would put a method's name into every path below it."""

    def layer(name: str) -> Any:
        def run(x: jax.Array) -> jax.Array:
            return Qwen2DecoderLayer(config, name)(x, *shared)

        return hk.remat(run) if remat else run

    if scan:  # parameters [num_hidden_layers, ...] under `layers/layer`
        return hk.layer_stack(config.num_hidden_layers, name="layers")(layer("layer"))(x)
    for i in range(config.num_hidden_layers):
        x = layer(f"layers_{i}")(x)
    return x


def build(weights: Weights, *, scan: bool = False, remat: bool = False) -> Subject:
    """The subject: Haiku's parameters beside the transformed function, called as ``call(params, **inputs)``."""
    config, dtype = weights.config, weights.dtype
    model = hk.without_apply_rng(
        hk.transform(
            lambda **inputs: Qwen2ForCausalLM(config, dtype, scan=scan, remat=remat)(**inputs)
        )
    )

    def call(params: Any, **inputs: Any) -> CausalLMOutput:
        arrays = {name: jnp.asarray(value) for name, value in inputs.items() if value is not None}
        output: CausalLMOutput = model.apply(params, **arrays)
        return output

    return Subject(model=parameters(weights, scan), call=call, framework="haiku")


def parameters(weights: Weights, scan: bool) -> dict[str, dict[str, Any]]:
    """Haiku's two levels: `model/layers_0/self_attn/q_proj` and then `w`, `b`."""
    tree: dict[str, dict[str, Any]] = {}
    for (*path, leaf), array in weights.load(stacked=scan).items():
        if path[0] == "layers":
            path[: 1 if scan else 2] = ["layers", "layer"] if scan else [f"layers_{path[1]}"]
        name = "/".join(["model", *map(str, path)])
        tree.setdefault(name, {})[LEAVES[str(leaf)]] = array
    return tree
