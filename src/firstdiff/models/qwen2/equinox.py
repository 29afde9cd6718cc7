"""Qwen2 in Equinox, written for one sequence and vmapped over the batch, as Equinox models are.

t = tokens, h = heads, k = key-value heads, d = head_dim.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import jax.numpy as jnp

from firstdiff.models.qwen2 import ops
from firstdiff.models.qwen2.config import Qwen2Config  # noqa: TC001 - a field's type
from firstdiff.models.qwen2.output import CausalLMOutput
from firstdiff.models.qwen2.rope import inverse_frequencies
from firstdiff.models.subject import Subject

if TYPE_CHECKING:
    from firstdiff.models.qwen2.weights import Weights


class Qwen2RMSNorm(eqx.Module):
    """Root mean square norm with a learned weight."""

    weight: jax.Array
    eps: float = eqx.field(static=True)

    def __init__(self, config: Qwen2Config, dtype: str) -> None:
        self.weight = jnp.ones(config.hidden_size, dtype)
        self.eps = config.rms_norm_eps

    def __call__(self, hidden_states: jax.Array) -> jax.Array:
        """[..., hidden_size] -> the same."""
        return ops.rms_norm(hidden_states, self.weight, self.eps)


class Qwen2RotaryEmbedding(eqx.Module):
    """cos and sin for every position; no parameters."""

    config: Qwen2Config = eqx.field(static=True)

    def __call__(self, x: jax.Array, position_ids: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Positions [t] -> cos and sin [t, d] in the dtype of ``x``."""
        return ops.rotary_tables(position_ids, *inverse_frequencies(self.config), str(x.dtype))


class SiLU(eqx.Module):
    """The activation, as a module of its own."""

    def __call__(self, x: jax.Array) -> jax.Array:
        """Elementwise."""
        return ops.silu(x)


class Qwen2MLP(eqx.Module):
    """Gated feed-forward block."""

    gate_proj: eqx.nn.Linear
    up_proj: eqx.nn.Linear
    down_proj: eqx.nn.Linear
    act_fn: SiLU

    def __init__(self, config: Qwen2Config, dtype: str, key: jax.Array) -> None:
        narrow, wide = config.hidden_size, config.intermediate_size
        gate, up, down = jax.random.split(key, 3)
        self.gate_proj = eqx.nn.Linear(narrow, wide, use_bias=False, dtype=dtype, key=gate)
        self.up_proj = eqx.nn.Linear(narrow, wide, use_bias=False, dtype=dtype, key=up)
        self.down_proj = eqx.nn.Linear(wide, narrow, use_bias=False, dtype=dtype, key=down)
        self.act_fn = SiLU()

    def __call__(self, x: jax.Array) -> jax.Array:
        """[t, hidden_size] -> the same; a Linear takes one token."""
        gate = self.act_fn(jax.vmap(self.gate_proj)(x))  # [t, intermediate_size]
        return jax.vmap(self.down_proj)(gate * jax.vmap(self.up_proj)(x))


class Qwen2Attention(eqx.Module):
    """Grouped-query attention with rotary positions; q, k, v have biases, o has none."""

    q_proj: eqx.nn.Linear
    k_proj: eqx.nn.Linear
    v_proj: eqx.nn.Linear
    o_proj: eqx.nn.Linear
    head_dim: int = eqx.field(static=True)

    def __init__(self, config: Qwen2Config, dtype: str, key: jax.Array) -> None:
        hidden, self.head_dim = config.hidden_size, config.head_dim
        query = config.num_attention_heads * config.head_dim
        kv = config.num_key_value_heads * config.head_dim
        keys = jax.random.split(key, 4)
        self.q_proj = eqx.nn.Linear(hidden, query, dtype=dtype, key=keys[0])
        self.k_proj = eqx.nn.Linear(hidden, kv, dtype=dtype, key=keys[1])
        self.v_proj = eqx.nn.Linear(hidden, kv, dtype=dtype, key=keys[2])
        self.o_proj = eqx.nn.Linear(query, hidden, use_bias=False, dtype=dtype, key=keys[3])

    def __call__(
        self,
        hidden_states: jax.Array,
        attention_mask: jax.Array,
        position_embeddings: tuple[jax.Array, jax.Array],
    ) -> jax.Array:
        """[t, hidden_size], additive mask [1, t, t], cos and sin [t, d] -> [t, hidden_size]."""
        d = self.head_dim
        q = ops.split_heads(jax.vmap(self.q_proj)(hidden_states), d)  # [t, h*d] -> [h, t, d]
        k = ops.split_heads(jax.vmap(self.k_proj)(hidden_states), d)  # [t, k*d] -> [k, t, d]
        v = ops.split_heads(jax.vmap(self.v_proj)(hidden_states), d)  # [t, k*d] -> [k, t, d]
        q, k = ops.apply_rotary_pos_emb(q, k, *position_embeddings)
        scaling = ops.attention_scaling(d)
        context = ops.eager_attention_forward(q, k, v, attention_mask, scaling)  # [h, t, d]
        return jax.vmap(self.o_proj)(ops.merge_heads(context))  # [t, h*d] -> [t, hidden_size]


class Qwen2DecoderLayer(eqx.Module):
    """Attention and feed-forward, each behind a norm and added to the residual stream."""

    self_attn: Qwen2Attention
    mlp: Qwen2MLP
    input_layernorm: Qwen2RMSNorm
    post_attention_layernorm: Qwen2RMSNorm

    def __init__(self, config: Qwen2Config, dtype: str, key: jax.Array) -> None:
        attention, mlp = jax.random.split(key)
        self.self_attn = Qwen2Attention(config, dtype, attention)
        self.mlp = Qwen2MLP(config, dtype, mlp)
        self.input_layernorm = Qwen2RMSNorm(config, dtype)
        self.post_attention_layernorm = Qwen2RMSNorm(config, dtype)

    def __call__(
        self,
        hidden_states: jax.Array,
        attention_mask: jax.Array,
        position_embeddings: tuple[jax.Array, jax.Array],
    ) -> jax.Array:
        """[t, hidden_size] -> the same."""
        branch = self.self_attn(
            self.input_layernorm(hidden_states), attention_mask, position_embeddings
        )
        hidden_states = ops.add_residual(hidden_states, branch)
        branch = self.mlp(self.post_attention_layernorm(hidden_states))
        return ops.add_residual(hidden_states, branch)


class Qwen2ForCausalLM(eqx.Module):
    """The token ids of one sequence in, its logits out."""

    embed_tokens: eqx.nn.Embedding
    rotary_emb: Qwen2RotaryEmbedding
    layers: Any
    """A list of layers, or with `scan` one layer whose arrays are stacked."""
    norm: Qwen2RMSNorm
    lm_head: eqx.nn.Linear | None
    dtype: str = eqx.field(static=True)
    scan: bool = eqx.field(static=True)
    remat: bool = eqx.field(static=True)

    def __init__(
        self, config: Qwen2Config, dtype: str, key: jax.Array, *, scan: bool, remat: bool
    ) -> None:
        self.dtype, self.scan, self.remat = dtype, scan, remat
        embedding, head, *keys = jax.random.split(key, 2 + config.num_hidden_layers)
        vocabulary, hidden = config.vocab_size, config.hidden_size
        self.embed_tokens = eqx.nn.Embedding(vocabulary, hidden, dtype=dtype, key=embedding)
        self.rotary_emb = Qwen2RotaryEmbedding(config)

        def layer(key: jax.Array) -> Qwen2DecoderLayer:
            return Qwen2DecoderLayer(config, dtype, key)

        self.layers = eqx.filter_vmap(layer)(jnp.stack(keys)) if scan else [*map(layer, keys)]
        self.norm = Qwen2RMSNorm(config, dtype)
        self.lm_head = None
        if not config.tie_word_embeddings:
            self.lm_head = eqx.nn.Linear(hidden, vocabulary, use_bias=False, dtype=dtype, key=head)

    def __call__(
        self, input_ids: jax.Array, attention_mask: jax.Array | None, position_ids: jax.Array
    ) -> CausalLMOutput:
        """Ids [t], mask [t] (1 = real token), positions [t] -> logits [t, vocab_size]."""
        hidden_states = jax.vmap(self.embed_tokens)(input_ids)  # [t] -> [t, hidden_size]
        position_embeddings = self.rotary_emb(hidden_states, position_ids)
        mask = ops.causal_mask(input_ids, attention_mask, self.dtype)  # [1, t, t]
        hidden_states = self._run_layers(hidden_states, mask, position_embeddings)
        hidden_states = self.norm(hidden_states)
        if self.lm_head is None:
            return CausalLMOutput(hidden_states @ self.embed_tokens.weight.T)  # [t, vocab_size]
        return CausalLMOutput(jax.vmap(self.lm_head)(hidden_states))  # [t, vocab_size]

    def _run_layers(self, x: jax.Array, *shared: Any) -> jax.Array:
        def run(x: jax.Array, layer: Qwen2DecoderLayer) -> jax.Array:
            return layer(x, *shared)

        run = eqx.filter_checkpoint(run) if self.remat else run
        if not self.scan:
            for layer in self.layers:
                x = run(x, layer)
            return x
        arrays, static = eqx.partition(self.layers, eqx.is_array)  # arrays [layers, ...]
        x, _ = jax.lax.scan(lambda x, one: (run(x, eqx.combine(one, static)), None), x, arrays)
        return x


def build(weights: Weights, *, scan: bool = False, remat: bool = False) -> Subject:
    """The subject: the module itself, called as ``call(module, **inputs)`` on a batch."""
    key = jax.random.PRNGKey(0)
    abstract = eqx.filter_eval_shape(
        Qwen2ForCausalLM, weights.config, weights.dtype, key, scan=scan, remat=remat
    )
    return Subject(model=_filled(abstract, weights, scan), call=_call, framework="equinox")


def _call(
    model: Qwen2ForCausalLM, input_ids: Any, attention_mask: Any = None, position_ids: Any = None
) -> CausalLMOutput:
    """Ids and mask [b, t], positions [1 or b, t] -> logits [b, t, vocab_size]."""
    input_ids = jnp.asarray(input_ids)
    if position_ids is None:
        position_ids = ops.default_position_ids(input_ids)
    position_ids = jnp.broadcast_to(jnp.asarray(position_ids), input_ids.shape)  # [b, t]
    mask = None if attention_mask is None else jnp.asarray(attention_mask)
    return jax.vmap(model, in_axes=(0, None if mask is None else 0, 0))(
        input_ids, mask, position_ids
    )


def _filled(abstract: Qwen2ForCausalLM, weights: Weights, scan: bool) -> Qwen2ForCausalLM:
    """``abstract`` with every array replaced by the weight that its path names; kernels stay [out, in]."""
    named = {}
    for (*path, leaf), array in weights.load(stacked=scan, transpose=False).items():
        name = "bias" if leaf == "bias" else "weight"
        named[
            "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in (*path, name))
        ] = array

    def fill(path: Any, leaf: Any) -> Any:
        del leaf
        return named[jax.tree_util.keystr(path)]

    filled: Qwen2ForCausalLM = jax.tree_util.tree_map_with_path(fill, abstract)
    return filled
