"""Qwen2 as plain functions over a dict of arrays, as people write it without a framework; layers by `lax.scan`.

b = batch, t = tokens, h = heads, k = key-value heads, d = head_dim.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import jax
import jax.numpy as jnp

from firstdiff.models.qwen2 import ops
from firstdiff.models.qwen2.output import CausalLMOutput
from firstdiff.models.qwen2.rope import inverse_frequencies
from firstdiff.models.subject import Subject

if TYPE_CHECKING:
    from collections.abc import Callable

    from firstdiff.models.qwen2.config import Qwen2Config
    from firstdiff.models.qwen2.weights import Weights

Params: TypeAlias = "dict[str, Any]"
"""Nested: `params["layers"]["self_attn"]["q_proj"]["kernel"]`."""


def linear(params: Params, x: jax.Array) -> jax.Array:
    """[..., in] -> [..., out]; kernel [in, out], bias [out] where there is one."""
    y: jax.Array = x @ params["kernel"]
    return y + params["bias"] if "bias" in params else y


def attention(
    params: Params, config: Qwen2Config, x: jax.Array, mask: jax.Array, rotary: Any
) -> jax.Array:
    """[b, t, hidden_size], additive mask [b, 1, t, t], cos and sin -> [b, t, hidden_size]."""
    d = config.head_dim
    q = ops.split_heads(linear(params["q_proj"], x), d)  # [b, t, h*d] -> [b, h, t, d]
    k = ops.split_heads(linear(params["k_proj"], x), d)  # [b, t, k*d] -> [b, k, t, d]
    v = ops.split_heads(linear(params["v_proj"], x), d)  # [b, t, k*d] -> [b, k, t, d]
    q, k = ops.apply_rotary_pos_emb(q, k, *rotary)
    scaling = ops.attention_scaling(d)
    context = ops.eager_attention_forward(q, k, v, mask, scaling)  # [b, h, t, d]
    return linear(params["o_proj"], ops.merge_heads(context))  # [b, t, h*d] -> [b, t, hidden_size]


def mlp(params: Params, x: jax.Array) -> jax.Array:
    """[b, t, hidden_size] -> the same."""
    gate = ops.silu(linear(params["gate_proj"], x))  # [b, t, intermediate_size]
    return linear(params["down_proj"], gate * linear(params["up_proj"], x))


def decoder_layer(
    params: Params, config: Qwen2Config, x: jax.Array, mask: jax.Array, rotary: Any
) -> jax.Array:
    """[b, t, hidden_size] -> the same."""
    eps = config.rms_norm_eps
    normed = ops.rms_norm(x, params["input_layernorm"]["scale"], eps)
    x = ops.add_residual(x, attention(params["self_attn"], config, normed, mask, rotary))
    normed = ops.rms_norm(x, params["post_attention_layernorm"]["scale"], eps)
    return ops.add_residual(x, mlp(params["mlp"], normed))


def forward(
    params: Params,
    config: Qwen2Config,
    input_ids: jax.Array,
    attention_mask: jax.Array | None = None,
    position_ids: jax.Array | None = None,
    *,
    scan: bool = True,
    remat: bool = False,
) -> CausalLMOutput:
    """Ids [b, t], mask [b, t] (1 = real token), positions [1 or b, t] -> logits [b, t, vocab_size].

    With ``scan`` the leaves of ``params["layers"]`` are stacked; without, it is a list of layers.
    """
    embedding = params["embed_tokens"]["embedding"]
    x = embedding[input_ids]  # [b, t] -> [b, t, hidden_size]
    if position_ids is None:
        position_ids = ops.default_position_ids(input_ids)
    dtype = str(x.dtype)
    rotary = ops.rotary_tables(position_ids, *inverse_frequencies(config), dtype)  # [1 or b, t, d]
    mask = ops.causal_mask(input_ids, attention_mask, dtype)

    def layer(x: jax.Array, params: Params) -> tuple[jax.Array, None]:
        return decoder_layer(params, config, x, mask, rotary), None

    layer = jax.checkpoint(layer, prevent_cse=not scan) if remat else layer
    if scan:
        x, _ = jax.lax.scan(layer, x, params["layers"])  # leaves [num_hidden_layers, ...]
    else:
        for one in params["layers"]:
            x, _ = layer(x, one)
    x = ops.rms_norm(x, params["norm"]["scale"], config.rms_norm_eps)
    if config.tie_word_embeddings:
        return CausalLMOutput(x @ embedding.T)  # [b, t, vocab_size]
    return CausalLMOutput(linear(params["lm_head"], x))  # [b, t, vocab_size]


def build(weights: Weights, *, scan: bool = True, remat: bool = False) -> Subject:
    """The subject: the dict of arrays beside the function, called as ``call(params, **inputs)``."""
    run: Callable[..., CausalLMOutput] = partial(forward, scan=scan, remat=remat)

    def call(params: Params, **inputs: Any) -> CausalLMOutput:
        arrays = {name: jnp.asarray(value) for name, value in inputs.items() if value is not None}
        return run(params, weights.config, **arrays)

    return Subject(model=parameters(weights, scan), call=call, framework="functions")


def parameters(weights: Weights, scan: bool) -> Params:
    """The nested dict; `layers` holds stacked leaves, or is a list."""
    tree: Params = {}
    layers: list[Params] = [{} for _ in range(weights.config.num_hidden_layers)]
    for (*path, leaf), array in weights.load(stacked=scan).items():
        node = tree
        if path[0] == "layers" and not scan:
            node, path = layers[int(path[1])], path[2:]
        for part in path:
            node = node.setdefault(str(part), {})
        node[str(leaf)] = array
    return tree if scan else tree | {"layers": layers}
