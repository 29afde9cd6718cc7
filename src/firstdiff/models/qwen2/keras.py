"""Qwen2 in Keras 3 on the JAX backend: `keras.layers.Dense` and `Embedding`, named as Hugging Face names them.

b = batch, t = tokens, h = heads, k = key-value heads, d = head_dim.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

os.environ.setdefault("KERAS_BACKEND", "jax")  # read once, when keras is imported

import jax.numpy as jnp
import keras

from firstdiff.models.qwen2 import ops
from firstdiff.models.qwen2.output import CausalLMOutput
from firstdiff.models.qwen2.rope import inverse_frequencies
from firstdiff.models.subject import Subject

if TYPE_CHECKING:
    import jax

    from firstdiff.models.qwen2.config import Qwen2Config
    from firstdiff.models.qwen2.weights import Weights


class Qwen2RMSNorm(keras.Layer):  # type: ignore[misc]  # keras has no annotations
    """Root mean square norm with a learned scale."""

    def __init__(self, config: Qwen2Config, **kind: Any) -> None:
        super().__init__(**kind)
        self.scale = self.add_weight(shape=(config.hidden_size,), name="scale")
        self.eps = config.rms_norm_eps

    def call(self, hidden_states: jax.Array) -> jax.Array:
        """[..., hidden_size] -> the same."""
        return ops.rms_norm(hidden_states, self.scale.value, self.eps)


class Qwen2RotaryEmbedding(keras.Layer):  # type: ignore[misc]  # keras has no annotations
    """cos and sin for every position; no parameters."""

    def __init__(self, config: Qwen2Config, **kind: Any) -> None:
        super().__init__(**kind)
        self.config = config

    def call(self, x: jax.Array, position_ids: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Positions [1 or b, t] -> cos and sin [1 or b, t, d] in the dtype of ``x``."""
        return ops.rotary_tables(position_ids, *inverse_frequencies(self.config), str(x.dtype))


class SiLU(keras.Layer):  # type: ignore[misc]  # keras has no annotations
    """The activation, as a layer of its own."""

    def call(self, x: jax.Array) -> jax.Array:
        """Elementwise."""
        return ops.silu(x)


class Qwen2MLP(keras.Layer):  # type: ignore[misc]  # keras has no annotations
    """Gated feed-forward block."""

    def __init__(self, config: Qwen2Config, **kind: Any) -> None:
        super().__init__(**kind)
        narrow, wide = config.hidden_size, config.intermediate_size
        plain = {"use_bias": False, "dtype": self.dtype_policy}
        self.gate_proj = keras.layers.Dense(wide, name="gate_proj", **plain)
        self.up_proj = keras.layers.Dense(wide, name="up_proj", **plain)
        self.down_proj = keras.layers.Dense(narrow, name="down_proj", **plain)
        self.act_fn = SiLU(name="act_fn", dtype=self.dtype_policy)

    def call(self, x: jax.Array) -> jax.Array:
        """[b, t, hidden_size] -> the same."""
        result: jax.Array = self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))
        return result


class Qwen2Attention(keras.Layer):  # type: ignore[misc]  # keras has no annotations
    """Grouped-query attention with rotary positions; q, k, v have biases, o has none."""

    def __init__(self, config: Qwen2Config, **kind: Any) -> None:
        super().__init__(**kind)
        self.head_dim = config.head_dim
        query = config.num_attention_heads * config.head_dim
        key = config.num_key_value_heads * config.head_dim
        same = {"dtype": self.dtype_policy}
        self.q_proj = keras.layers.Dense(query, name="q_proj", **same)
        self.k_proj = keras.layers.Dense(key, name="k_proj", **same)
        self.v_proj = keras.layers.Dense(key, name="v_proj", **same)
        self.o_proj = keras.layers.Dense(config.hidden_size, use_bias=False, name="o_proj", **same)

    def call(
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
        result: jax.Array = self.o_proj(ops.merge_heads(context))  # [b, t, h*d] -> [b, t, hidden]
        return result


class Qwen2DecoderLayer(keras.Layer):  # type: ignore[misc]  # keras has no annotations
    """Attention and feed-forward, each behind a norm and added to the residual stream."""

    def __init__(self, config: Qwen2Config, **kind: Any) -> None:
        super().__init__(**kind)
        same = {"dtype": self.dtype_policy}
        self.self_attn = Qwen2Attention(config, name="self_attn", **same)
        self.mlp = Qwen2MLP(config, name="mlp", **same)
        self.input_layernorm = Qwen2RMSNorm(config, name="input_layernorm", **same)
        self.post_attention_layernorm = Qwen2RMSNorm(
            config, name="post_attention_layernorm", **same
        )

    def call(
        self,
        hidden_states: jax.Array,
        attention_mask: jax.Array,
        position_embeddings: tuple[jax.Array, jax.Array],
    ) -> jax.Array:
        """[b, t, hidden_size] -> the same."""
        normed = self.input_layernorm(hidden_states)
        branch = self.self_attn(normed, attention_mask, position_embeddings)
        hidden_states = ops.add_residual(hidden_states, branch)
        branch = self.mlp(self.post_attention_layernorm(hidden_states))
        return ops.add_residual(hidden_states, branch)


class Qwen2ForCausalLM(keras.Layer):  # type: ignore[misc]  # keras has no annotations
    """Token ids in, logits out."""

    def __init__(self, config: Qwen2Config, **kind: Any) -> None:
        super().__init__(**kind)
        same = {"dtype": self.dtype_policy}
        vocabulary, hidden = config.vocab_size, config.hidden_size
        self.embed_tokens = keras.layers.Embedding(vocabulary, hidden, name="embed_tokens", **same)
        self.rotary_emb = Qwen2RotaryEmbedding(config, name="rotary_emb", **same)
        self.layers = [Qwen2DecoderLayer(config, **same) for _ in range(config.num_hidden_layers)]
        self.norm = Qwen2RMSNorm(config, name="norm", **same)
        self.lm_head = None
        if not config.tie_word_embeddings:
            self.lm_head = keras.layers.Dense(vocabulary, use_bias=False, name="lm_head", **same)

    def call(
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
        mask = ops.causal_mask(input_ids, attention_mask, self.compute_dtype)
        for layer in self.layers:
            hidden_states = layer(hidden_states, mask, position_embeddings)
        hidden_states = self.norm(hidden_states)
        if self.lm_head is None:
            return CausalLMOutput(hidden_states @ self.embed_tokens.embeddings.value.T)
        return CausalLMOutput(self.lm_head(hidden_states))  # [b, t, vocab_size]


def build(weights: Weights, *, scan: bool = False, remat: bool = False) -> Subject:
    """The subject: the layer itself, called as ``call(layer, **inputs)``. Its layers are a list, never recomputed."""
    del scan, remat
    model = Qwen2ForCausalLM(weights.config, dtype=weights.dtype)
    model(jnp.zeros((1, 2), jnp.int32))
    for (*path, leaf), array in weights.load(stacked=False).items():
        layer: Any = model
        for part in path:
            layer = layer[part] if isinstance(part, int) else getattr(layer, str(part))
        getattr(layer, "embeddings" if leaf == "embedding" else str(leaf)).assign(array)

    def call(model: Qwen2ForCausalLM, **inputs: Any) -> CausalLMOutput:
        result: CausalLMOutput = model(
            **{k: jnp.asarray(v) for k, v in inputs.items() if v is not None}
        )
        return result

    return Subject(model=model, call=call, framework="keras")
