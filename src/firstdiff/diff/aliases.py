"""What model families call the same module. A table, apart from the matcher that reads it.

Names collected from public ports (Hugging Face, Meta, MaxText, Gemma, Mistral NNX, bonsai, big_vision). They can lie:
`wo` is the attention's output in one family and the MLP's in another, `post_attention_layernorm` stands before the
MLP in Llama and behind the attention in Gemma, `attn_norm` is the second norm in one Mixtral port. A name may
therefore stand in several groups, and a pair is made only where the rest of the model leaves one choice.
"""

from __future__ import annotations

from itertools import product

from firstdiff.diff.names import Segments, normalise

GROUPS: dict[str, tuple[str, ...]] = {
    "attention": (
        "self_attn", "attn", "attention", "self_attention", "attention.attention", "attention.self", "self_attn.self",
    ),
    "mlp": ("mlp", "feed_forward", "ffn", "ff", "mlp_block", "mlpblock"),
    "attention.q": ("q_proj", "wq", "query", "q_einsum", "query_proj", "to_q"),
    "attention.k": ("k_proj", "wk", "key", "k_einsum", "key_proj", "to_k"),
    "attention.v": ("v_proj", "wv", "value", "v_einsum", "value_proj", "to_v"),
    "attention.qkv": ("qkv_proj", "c_attn", "qkv", "query_key_value", "wqkv", "in_proj"),
    "attention.kv": ("kv_proj", "kv_einsum", "to_kv"),
    "attention.out": ("o_proj", "wo", "out", "out_proj", "c_proj", "attn_vec_einsum", "dense", "to_out"),
    "attention.q_norm": ("q_norm", "query_norm", "q_layernorm"),
    "attention.k_norm": ("k_norm", "key_norm", "k_layernorm"),
    "mlp.gate": ("gate_proj", "w1", "wi_0", "gate"),
    "mlp.up": ("up_proj", "w3", "wi_1", "up", "c_fc"),
    "mlp.down": ("down_proj", "w2", "wo", "linear", "c_proj", "down"),
    "mlp.gate_up": ("gate_up_proj", "gating_einsum", "w13"),
    "norm_1": (
        "input_layernorm", "attention_norm", "pre_attention_norm", "pre_self_attention_layer_norm", "ln_1",
        "input_norm", "layernorm_before", "attn_norm", "norm1", "pre_attention_layernorm",
    ),
    "norm_2": (
        "post_attention_layernorm", "ffn_norm", "pre_ffw_norm", "pre_feedforward_layernorm", "ln_2", "attn_norm",
        "layernorm_after", "post_self_attention_layer_norm", "norm2", "post_attention_norm", "pre_mlp_norm",
    ),
    "norm_after_attention": ("post_attention_layernorm", "post_attention_norm", "post_self_attention_norm"),
    "norm_after_mlp": ("post_feedforward_layernorm", "post_ffw_norm"),
    "norm_last": ("norm", "ln_f", "final_norm", "decoder_norm", "ln", "final_layernorm", "layernorm"),
    "embedding": (
        "embed_tokens", "wte", "embedder", "embed", "token_embedder", "tok_embeddings", "word_embeddings",
        "token_embedding",
    ),
    "positions": ("wpe", "position_embeddings", "pos_embedding", "embed_positions"),
    "rotary": ("rotary_emb", "rope", "rotary", "rotary_embedding"),
    "head": ("lm_head", "output", "logits_dense", "unembed", "embed_out"),
    "activation": ("act_fn", "act", "activation", "activation_fn", "intermediate_act_fn"),
}  # fmt: skip
"""Names by role. A role `attention.q` is one of a module inside an attention."""


def _table() -> dict[Segments, tuple[str, ...]]:
    """Roles by name, each name split as paths are."""
    roles: dict[Segments, tuple[str, ...]] = {}
    for role, names in GROUPS.items():
        for name in names:
            key = normalise(name)
            roles[key] = (*roles.get(key, ()), role)
    return roles


_ROLES = _table()
_LONGEST = max(map(len, _ROLES))
_MOST_READINGS = 16


def readings(path: str) -> frozenset[Segments]:
    """Every way to read ``path`` with roles in place of names: several where a name stands in several groups."""
    choices: list[tuple[str, ...]] = []
    segments, start, inside = normalise(path), 0, ""
    while start < len(segments):
        width, roles = _roles_at(segments, start, inside)
        inside = roles[0] if roles[0] in ("attention", "mlp") else inside
        choices.append(roles)
        start += width
    found: set[Segments] = set()
    for reading in product(*choices):
        found.add(reading)
        if len(found) == _MOST_READINGS:
            break
    return frozenset(found)


def _roles_at(segments: Segments, start: int, inside: str) -> tuple[int, tuple[str, ...]]:
    """How many segments the longest known name at ``start`` has, and its roles inside ``inside``."""
    for width in range(min(_LONGEST, len(segments) - start), 0, -1):
        roles = _ROLES.get(segments[start : start + width], ())
        fitting = tuple(role for role in roles if "." not in role or role.startswith(f"{inside}."))
        nested = tuple(role for role in fitting if inside and role.startswith(f"{inside}."))
        if fitting:
            return width, nested or fitting
    return 1, (segments[start],)
