"""Qwen2 in Flax linen. Modules are called as modules and named as Hugging Face names them, so that taps see each.

`scan=True` stacks the layers under one module, `layers`, as large models are written; otherwise they are
`layers_0`, `layers_1`, ... b = batch, t = tokens, h = heads, k = key-value heads, d = head_dim.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import flax.linen as nn
import jax.numpy as jnp

from firstdiff.models.qwen2 import ops
from firstdiff.models.qwen2.config import Qwen2Config  # noqa: TC001 - linen evaluates field types
from firstdiff.models.qwen2.output import CausalLMOutput
from firstdiff.models.qwen2.rope import inverse_frequencies
from firstdiff.models.subject import Subject

if TYPE_CHECKING:
    import jax

    from firstdiff.models.qwen2.weights import Weights


class Qwen2RMSNorm(nn.Module):
    """Root mean square norm with a learned scale."""

    config: Qwen2Config
    dtype: str

    @nn.compact
    def __call__(self, hidden_states: jax.Array) -> jax.Array:
        """[..., hidden_size] -> the same."""
        shape = (self.config.hidden_size,)
        scale = self.param("scale", nn.initializers.ones, shape, self.dtype)
        return ops.rms_norm(hidden_states, scale, self.config.rms_norm_eps)


class Qwen2RotaryEmbedding(nn.Module):
    """cos and sin for every position; no parameters."""

    config: Qwen2Config

    def __call__(self, x: jax.Array, position_ids: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Positions [1 or b, t] -> cos and sin [1 or b, t, d] in the dtype of ``x``."""
        return ops.rotary_tables(position_ids, *inverse_frequencies(self.config), str(x.dtype))


class SiLU(nn.Module):
    """The activation, as a module of its own."""

    def __call__(self, x: jax.Array) -> jax.Array:
        """Elementwise."""
        return ops.silu(x)


class Qwen2MLP(nn.Module):
    """Gated feed-forward block."""

    config: Qwen2Config
    dtype: str

    def setup(self) -> None:
        """Declare the three projections."""
        wide, narrow = self.config.intermediate_size, self.config.hidden_size
        self.gate_proj = nn.Dense(wide, use_bias=False, dtype=self.dtype, param_dtype=self.dtype)
        self.up_proj = nn.Dense(wide, use_bias=False, dtype=self.dtype, param_dtype=self.dtype)
        self.down_proj = nn.Dense(narrow, use_bias=False, dtype=self.dtype, param_dtype=self.dtype)
        self.act_fn = SiLU()

    def __call__(self, x: jax.Array) -> jax.Array:
        """[b, t, hidden_size] -> the same."""
        return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))


class Qwen2Attention(nn.Module):
    """Grouped-query attention with rotary positions; q, k, v have biases, o has none."""

    config: Qwen2Config
    dtype: str

    def setup(self) -> None:
        """Declare the four projections."""
        c, kind = self.config, {"dtype": self.dtype, "param_dtype": self.dtype}
        self.q_proj = nn.Dense(c.num_attention_heads * c.head_dim, **kind)
        self.k_proj = nn.Dense(c.num_key_value_heads * c.head_dim, **kind)
        self.v_proj = nn.Dense(c.num_key_value_heads * c.head_dim, **kind)
        self.o_proj = nn.Dense(c.hidden_size, use_bias=False, **kind)

    def __call__(
        self,
        hidden_states: jax.Array,
        attention_mask: jax.Array,
        position_embeddings: tuple[jax.Array, jax.Array],
    ) -> jax.Array:
        """[b, t, hidden_size], additive mask [b, 1, t, t], cos and sin -> [b, t, hidden_size]."""
        d = self.config.head_dim
        q = ops.split_heads(self.q_proj(hidden_states), d)  # [b, t, h*d] -> [b, h, t, d]
        k = ops.split_heads(self.k_proj(hidden_states), d)  # [b, t, k*d] -> [b, k, t, d]
        v = ops.split_heads(self.v_proj(hidden_states), d)  # [b, t, k*d] -> [b, k, t, d]
        q, k = ops.apply_rotary_pos_emb(q, k, *position_embeddings)
        if self.has_variable("cache", "keys"):
            k, v = self._cached(k, v)  # [b, k, t, d] -> [b, k, length, d]
        scaling = ops.attention_scaling(d)
        context = ops.eager_attention_forward(q, k, v, attention_mask, scaling)  # [b, h, t, d]
        return self.o_proj(ops.merge_heads(context))  # [b, t, h*d] -> [b, t, hidden_size]

    @nn.nowrap
    def _cached(self, k: jax.Array, v: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Keys and values of all tokens so far, the new ones written into the cache."""
        written = self.get_variable("cache", "written")
        keys = ops.write_cache(self.get_variable("cache", "keys"), k, written)
        values = ops.write_cache(self.get_variable("cache", "values"), v, written)
        for name, value in (("keys", keys), ("values", values), ("written", written + k.shape[-2])):
            self.put_variable("cache", name, value)
        return keys, values


class Qwen2DecoderLayer(nn.Module):
    """Attention and feed-forward, each behind a norm and added to the residual stream."""

    config: Qwen2Config
    dtype: str

    def setup(self) -> None:
        """Declare the two branches and their norms."""
        self.self_attn = Qwen2Attention(self.config, self.dtype)
        self.mlp = Qwen2MLP(self.config, self.dtype)
        self.input_layernorm = Qwen2RMSNorm(self.config, self.dtype)
        self.post_attention_layernorm = Qwen2RMSNorm(self.config, self.dtype)

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


class Qwen2ForCausalLM(nn.Module):
    """Token ids in, logits out."""

    config: Qwen2Config
    dtype: str = "float32"
    scan: bool = False
    """Stack the layers and scan over them."""
    remat: bool = False
    """Recompute each layer's activations in a backward pass."""

    def setup(self) -> None:
        """Declare embedding, layers, final norm and head."""
        c, kind = self.config, {"dtype": self.dtype, "param_dtype": self.dtype}
        self.embed_tokens = nn.Embed(c.vocab_size, c.hidden_size, **kind)
        self.rotary_emb = Qwen2RotaryEmbedding(c)
        layer = nn.remat(Qwen2DecoderLayer, prevent_cse=False) if self.remat else Qwen2DecoderLayer
        if self.scan:
            self.layers = layer(c, self.dtype)
        else:
            self.layers = [layer(c, self.dtype) for _ in range(c.num_hidden_layers)]
        self.norm = Qwen2RMSNorm(c, self.dtype)
        if not c.tie_word_embeddings:
            self.lm_head = nn.Dense(c.vocab_size, use_bias=False, **kind)

    def __call__(
        self,
        input_ids: jax.Array,
        attention_mask: jax.Array | None = None,
        position_ids: jax.Array | None = None,
    ) -> CausalLMOutput:
        """Ids [b, t], mask [b, t] (1 = real token), positions [1 or b, t] -> logits [b, t, vocab_size]."""
        hidden_states = self.embed_tokens(input_ids)  # [b, t] -> [b, t, hidden_size]
        if self.has_variable("cache", "written"):
            written = self.get_variable("cache", "written")
            self.put_variable("cache", "written", written + input_ids.shape[-1])
            position_ids = ops.cached_position_ids(position_ids, input_ids, written)
            assert attention_mask is not None, "a step is given a mask over the whole cache"
            mask = ops.cached_mask(input_ids, attention_mask, written, self.dtype)
        else:
            if position_ids is None:
                position_ids = ops.default_position_ids(input_ids)
            mask = ops.causal_mask(input_ids, attention_mask, self.dtype)
        position_embeddings = self.rotary_emb(hidden_states, position_ids)
        hidden_states = self._run_layers(hidden_states, mask, position_embeddings)
        hidden_states = self.norm(hidden_states)
        tied = self.config.tie_word_embeddings
        head = self.embed_tokens.attend if tied else self.lm_head
        return CausalLMOutput(head(hidden_states))  # [b, t, vocab_size]

    @nn.nowrap
    def _run_layers(
        self, x: jax.Array, mask: jax.Array, position_embeddings: tuple[jax.Array, jax.Array]
    ) -> jax.Array:
        if not self.scan:
            for layer in self.layers:
                x = layer(x, mask, position_embeddings)
            return x
        x, _ = nn.scan(
            lambda layer, x, *shared: (layer(x, *shared), None),
            variable_axes={"params": 0, "cache": 0},  # each leaf [num_hidden_layers, ...]
            split_rngs={"params": True},
            in_axes=nn.broadcast,
            length=self.config.num_hidden_layers,
        )(self.layers, x, mask, position_embeddings)
        return x


def build(weights: Weights, *, scan: bool = False, remat: bool = False) -> Subject:
    """The subject: a parameter tree beside the linen module, called as ``call(params, **inputs)``."""
    module = Qwen2ForCausalLM(weights.config, weights.dtype, scan=scan, remat=remat)

    def call(params: Any, **inputs: Any) -> CausalLMOutput:
        arrays = {name: jnp.asarray(value) for name, value in inputs.items() if value is not None}
        output: CausalLMOutput = module.apply({"params": params}, **arrays)
        return output

    def step(params: Any, cache: Any, **inputs: Any) -> tuple[CausalLMOutput, Any]:
        given = {"params": params, "cache": cache}
        output, changed = module.apply(given, **inputs, mutable=["cache"])
        return output, changed["cache"]

    def cache(_params: Any, batch: int, length: int) -> dict[str, Any]:
        return empty_cache(module, batch, length)

    return Subject(
        model=parameters(weights, scan),
        call=call,
        framework="linen",
        module=module,
        step=step,
        cache=cache,
    )


def empty_cache(module: Qwen2ForCausalLM, batch: int, length: int) -> dict[str, Any]:
    """Room for the keys and values of ``length`` tokens in every layer; `written` counts those that are there."""
    c, layers = module.config, module.config.num_hidden_layers
    lead = (layers,) if module.scan else ()
    shape = (*lead, batch, c.num_key_value_heads, length, c.head_dim)
    written = jnp.zeros((), jnp.int32)

    def layer() -> dict[str, Any]:
        room = {name: jnp.zeros(shape, module.dtype) for name in ("keys", "values")}
        return {"self_attn": {**room, "written": jnp.zeros(lead, jnp.int32)}}

    names = ["layers"] if module.scan else [f"layers_{n}" for n in range(layers)]
    return {"written": written, **{name: layer() for name in names}}


def parameters(weights: Weights, scan: bool) -> dict[str, Any]:
    """The nested parameter tree: `layers/self_attn/...` stacked, or `layers_0/self_attn/...`."""
    tree: dict[str, Any] = {}
    for (*path, leaf), array in weights.load(stacked=scan).items():
        if path[0] == "layers" and not scan:
            path[:2] = [f"layers_{path[1]}"]
        node = tree
        for part in path:
            node = node.setdefault(str(part), {})
        node[str(leaf)] = array
    return tree
