"""Qwen2 in Flax NNX: `nnx.Linear` and `nnx.Embed`, attributes named as Hugging Face names them.

b = batch, t = tokens, h = heads, k = key-value heads, d = head_dim.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
from flax import nnx

from firstdiff.models.qwen2 import ops
from firstdiff.models.qwen2.output import CausalLMOutput
from firstdiff.models.qwen2.rope import inverse_frequencies
from firstdiff.models.subject import Subject

if TYPE_CHECKING:
    import jax

    from firstdiff.models.qwen2.config import Qwen2Config
    from firstdiff.models.qwen2.weights import Weights


class Qwen2RMSNorm(nnx.Module):
    """Root mean square norm with a learned scale."""

    def __init__(self, config: Qwen2Config, dtype: str) -> None:
        self.scale = nnx.Param(jnp.ones(config.hidden_size, dtype))
        self.eps = config.rms_norm_eps

    def __call__(self, hidden_states: jax.Array) -> jax.Array:
        """[..., hidden_size] -> the same."""
        return ops.rms_norm(hidden_states, self.scale[...], self.eps)


class Qwen2RotaryEmbedding(nnx.Module):
    """cos and sin for every position; no parameters."""

    def __init__(self, config: Qwen2Config) -> None:
        self.config = config

    def __call__(self, x: jax.Array, position_ids: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Positions [1 or b, t] -> cos and sin [1 or b, t, d] in the dtype of ``x``."""
        return ops.rotary_tables(position_ids, *inverse_frequencies(self.config), str(x.dtype))


class SiLU(nnx.Module):
    """The activation, as a module of its own."""

    def __call__(self, x: jax.Array) -> jax.Array:
        """Elementwise."""
        return ops.silu(x)


class Qwen2MLP(nnx.Module):
    """Gated feed-forward block."""

    def __init__(self, config: Qwen2Config, **kind: Any) -> None:
        narrow, wide = config.hidden_size, config.intermediate_size
        self.gate_proj = nnx.Linear(narrow, wide, use_bias=False, **kind)
        self.up_proj = nnx.Linear(narrow, wide, use_bias=False, **kind)
        self.down_proj = nnx.Linear(wide, narrow, use_bias=False, **kind)
        self.act_fn = SiLU()

    def __call__(self, x: jax.Array) -> jax.Array:
        """[b, t, hidden_size] -> the same."""
        return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))


class Qwen2Attention(nnx.Module):
    """Grouped-query attention with rotary positions; q, k, v have biases, o has none."""

    def __init__(self, config: Qwen2Config, **kind: Any) -> None:
        hidden, self.head_dim = config.hidden_size, config.head_dim
        query = config.num_attention_heads * config.head_dim
        key = config.num_key_value_heads * config.head_dim
        self.q_proj = nnx.Linear(hidden, query, **kind)
        self.k_proj = nnx.Linear(hidden, key, **kind)
        self.v_proj = nnx.Linear(hidden, key, **kind)
        self.o_proj = nnx.Linear(query, hidden, use_bias=False, **kind)

    def __call__(
        self,
        hidden_states: jax.Array,
        attention_mask: jax.Array,
        position_embeddings: tuple[jax.Array, jax.Array],
    ) -> jax.Array:
        """[b, t, hidden_size], additive mask [b, 1, t, t], cos and sin -> [b, t, hidden_size]."""
        d = self.head_dim
        q = ops.split_heads(self.q_proj(hidden_states), d)  # [b, t, h*d] -> [b, h, t, d]
        k = ops.split_heads(self.k_proj(hidden_states), d)  # [b, t, k*d] -> [b, k, t, d]
        v = ops.split_heads(self.v_proj(hidden_states), d)  # [b, t, k*d] -> [b, k, t, d]
        q, k = ops.apply_rotary_pos_emb(q, k, *position_embeddings)
        scaling = ops.attention_scaling(d)
        context = ops.eager_attention_forward(q, k, v, attention_mask, scaling)  # [b, h, t, d]
        return self.o_proj(ops.merge_heads(context))  # [b, t, h*d] -> [b, t, hidden_size]


class Qwen2DecoderLayer(nnx.Module):
    """Attention and feed-forward, each behind a norm and added to the residual stream."""

    def __init__(self, config: Qwen2Config, dtype: str, rngs: nnx.Rngs) -> None:
        kind = {"dtype": dtype, "param_dtype": dtype, "rngs": rngs}
        self.self_attn = Qwen2Attention(config, **kind)
        self.mlp = Qwen2MLP(config, **kind)
        self.input_layernorm = Qwen2RMSNorm(config, dtype)
        self.post_attention_layernorm = Qwen2RMSNorm(config, dtype)

    def __call__(
        self,
        hidden_states: jax.Array,
        attention_mask: jax.Array,
        position_embeddings: tuple[jax.Array, jax.Array],
    ) -> jax.Array:
        """[b, t, hidden_size] -> the same."""
        branch = self.self_attn(
            self.input_layernorm(hidden_states), attention_mask, position_embeddings
        )
        hidden_states = ops.add_residual(hidden_states, branch)
        branch = self.mlp(self.post_attention_layernorm(hidden_states))
        return ops.add_residual(hidden_states, branch)


class Qwen2ForCausalLM(nnx.Module):
    """Token ids in, logits out."""

    def __init__(
        self,
        config: Qwen2Config,
        dtype: str = "float32",
        *,
        scan: bool = False,
        remat: bool = False,
        rngs: nnx.Rngs,
    ) -> None:
        kind = {"dtype": dtype, "param_dtype": dtype, "rngs": rngs}
        self.dtype, self.scan, self.remat = dtype, scan, remat
        self.embed_tokens = nnx.Embed(config.vocab_size, config.hidden_size, **kind)
        self.rotary_emb = Qwen2RotaryEmbedding(config)
        count = config.num_hidden_layers
        if scan:
            stack = nnx.vmap(Qwen2DecoderLayer, in_axes=(None, None, 0))
            self.layers = stack(config, dtype, rngs.split(count))  # [layers, ...]
        else:
            self.layers = nnx.List(Qwen2DecoderLayer(config, dtype, rngs) for _ in range(count))
        self.norm = Qwen2RMSNorm(config, dtype)
        if config.tie_word_embeddings:
            self.lm_head = None
        else:
            self.lm_head = nnx.Linear(config.hidden_size, config.vocab_size, use_bias=False, **kind)

    def __call__(
        self,
        input_ids: jax.Array,
        attention_mask: jax.Array | None = None,
        position_ids: jax.Array | None = None,
    ) -> CausalLMOutput:
        """Ids [b, t], mask [b, t] (1 = real token), positions [1 or b, t] -> logits [b, t, vocab_size]."""
        hidden_states = self.embed_tokens(input_ids)  # [b, t] -> [b, t, hidden_size]
        if position_ids is None:
            position_ids = ops.default_position_ids(input_ids)
        position_embeddings = self.rotary_emb(hidden_states, position_ids)
        mask = ops.causal_mask(input_ids, attention_mask, self.dtype)
        hidden_states = self._run_layers(hidden_states, mask, position_embeddings)
        hidden_states = self.norm(hidden_states)
        head = self.embed_tokens.attend if self.lm_head is None else self.lm_head
        return CausalLMOutput(head(hidden_states))  # [b, t, vocab_size]

    def _run_layers(self, x: jax.Array, *shared: Any) -> jax.Array:
        def run(x: jax.Array, layer: Qwen2DecoderLayer) -> jax.Array:
            return layer(x, *shared)

        if self.remat:
            run = nnx.remat(run, prevent_cse=False)
        if self.scan:
            return nnx.scan(run, in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)(x, self.layers)
        for layer in self.layers:
            x = run(x, layer)
        return x


def build(weights: Weights, *, scan: bool = False, remat: bool = False) -> Subject:
    """The subject: the module itself, called as ``call(module, **inputs)``."""
    config, dtype = weights.config, weights.dtype
    abstract = nnx.eval_shape(
        lambda: Qwen2ForCausalLM(config, dtype, scan=scan, remat=remat, rngs=nnx.Rngs(0))
    )
    graph, state = nnx.split(abstract)
    loaded = weights.load(stacked=scan)
    for path, variable in nnx.to_flat_state(state):
        variable.set_value(loaded[path])

    def call(module: Qwen2ForCausalLM, **inputs: Any) -> CausalLMOutput:
        return module(**{k: jnp.asarray(v) for k, v in inputs.items() if v is not None})

    return Subject(model=nnx.merge(graph, state), call=call, framework="nnx")
