"""Faults in code and configuration: more entries of the catalogue, as one table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from firstdiff.models.fault import Fault
from firstdiff.models.qwen2 import wrong_attention, wrong_blocks, wrong_rotary
from firstdiff.models.qwen2.config import RopeScaling

if TYPE_CHECKING:
    from collections.abc import Callable

    Row = tuple[str, str, str, Callable[..., Any]]

_PLACES: dict[str, dict[str, Any]] = {
    "core": {
        "module": "layers.0.self_attn",
        "activation": "layers.0.self_attn.o_proj",
        "site": "input",
    },
    "mask": {"module": "", "activation": "layers.0", "site": "input"},
    "tables": {"module": "rotary_emb", "activation": "rotary_emb"},
    "norm": {"module": "layers.0.input_layernorm", "activation": "layers.0.input_layernorm"},
    "act": {"module": "layers.0.mlp.act_fn", "activation": "layers.0.mlp.act_fn"},
    "residual": {
        "module": "layers.0",
        "activation": "layers.0.post_attention_layernorm",
        "site": "input",
    },
}
_A, _R, _B = wrong_attention, wrong_rotary, wrong_blocks

_ROWS: dict[tuple[str, str], tuple[Row, ...]] = {
    ("core", "attention_scaling"): (
        ("attention_scale_no_root", "The scores are divided by head_dim.", "attention scale", _A.scaling_by_head_dim),
        ("attention_scale_hidden", "The scores are divided by the root of the hidden size.",
         "attention scale", _A.scaling_by_four_heads),
        ("attention_scale_percent", "The scores are one percent too large.",
         "attention scale", _A.scaling_off_by_a_percent),
    ),
    ("core", "softmax"): (
        ("softmax_over_queries", "The softmax runs over the queries.", "softmax axis", _A.softmax_over_queries),
        ("dropout_active", "Dropout is left on in the attention.", "dropout", _A.softmax_with_dropout),
    ),
    ("core", "eager_attention_forward"): (
        ("attention_unmasked", "The attention never adds its mask.",
         "attention mask missing", _A.attention_without_mask),
        ("mask_weak", "The mask hides with -10.", "mask fill too weak", _A.attention_with_weak_mask),
        ("attention_one_ahead", "Each query sees one token too many.", "causal mask", _A.attention_one_token_ahead),
        ("keys_values_exchanged", "Keys and values are exchanged.",
         "keys and values exchanged", _A.attention_exchanged),
        ("cache_slot_empty", "The last key and value are still empty.",
         "cache slot empty", _A.attention_last_slot_empty),
        ("attention_bfloat16", "Queries, keys and values are rounded to bfloat16.",
         "low precision", _A.attention_in_bfloat16),
    ),
    ("core", "split_heads"): (
        ("heads_split_by_reshape", "Heads are split by a reshape alone.",
         "missing transpose", _A.split_heads_by_reshape),
        ("heads_split_channels_first", "Heads are split channel by channel.",
         "head layout", _A.split_heads_channels_first),
    ),
    ("core", "merge_heads"): (
        ("heads_merged_channels_first", "Heads are merged channel by channel.",
         "head layout", _A.merge_heads_channels_first),
    ),
    ("core", "rotate_half"): (
        ("rotary_backwards", "The rotary embedding turns backwards.", "rotary direction", _R.rotate_half_negative),
    ),
    ("core", "apply_rotary_pos_emb"): (
        ("rotary_missing", "Queries and keys are not rotated.", "rotary missing", _R.apply_to_neither),
        ("rotary_keys_missing", "Keys are not rotated.", "rotary missing", _R.apply_to_queries),
        ("rotary_exchanged", "cos and sin are exchanged.", "rotary direction", _R.apply_exchanged),
        ("queries_ahead", "Queries are rotated by the next position.", "position offset", _R.apply_queries_ahead),
    ),
    ("mask", "causal_mask"): (
        ("mask_one_ahead", "The mask shows one token too many.", "causal mask", _A.causal_mask_one_ahead),
        ("mask_strict", "The mask hides each token from itself.", "causal mask", _A.causal_mask_strict),
        ("mask_window", "The mask has a window of eight tokens.", "sliding window", _A.causal_mask_with_window),
    ),
    ("core", "causal_mask"): (
        ("mask_infinite", "The mask hides with -inf, and padded rows see nothing.",
         "fully masked rows", _A.causal_mask_infinite),
    ),
    ("tables", "rotary_tables"): (
        ("rotary_tables_repeated", "cos and sin repeat each angle for neighbours.",
         "rotary pairing", _R.tables_repeated),
        ("rotary_bfloat16", "The rotary frequencies are rounded to bfloat16.",
         "low precision", _R.tables_from_bfloat16),
        ("rotary_sine_negative", "The sine has the other sign.", "rotary direction", _R.tables_backwards),
    ),
    ("norm", "rms_norm"): (
        ("norm_eps_outside", "The norms add epsilon to the root.", "norm epsilon", _B.rms_norm_eps_outside),
        ("norm_bfloat16", "The norms compute in bfloat16.", "low precision", _B.rms_norm_in_bfloat16),
        ("norm_float16", "The norms compute with float16's digits.", "low precision", _B.rms_norm_in_float16),
        ("norm_unscaled", "The norms leave out their scale.", "norm scale missing", _B.rms_norm_unscaled),
        ("norm_unbiased", "The norms divide by n - 1.", "unbiased variance", _B.rms_norm_unbiased),
        ("norm_skipped", "The norms pass everything on.", "module skipped", _B.rms_norm_skipped),
    ),
    ("act", "silu"): (
        ("relu_for_silu", "The gate's activation is ReLU.", "activation function", _B.relu),
        ("gelu_tanh_for_silu", "The gate's activation is GELU by tanh.", "activation function", _B.gelu_by_tanh),
        ("quick_gelu_for_silu", "The gate's activation is quick GELU.", "activation function", _B.quick_gelu),
        ("activation_missing", "The gate has no activation.", "activation function", _B.identity),
    ),
    ("residual", "add_residual"): (
        ("residual_twice", "A branch is added twice.", "residual connection", _B.residual_twice),
        ("branch_missing", "A branch is not added.", "residual connection", _B.residual_alone),
        ("residual_subtracted", "A branch is subtracted.", "residual connection", _B.residual_subtracted),
    ),
}  # fmt: skip


def _functions() -> tuple[Fault, ...]:
    return tuple(
        Fault(name, sentence, cause=cause, functions={function: wrong}, **_PLACES[place])
        for (place, function), rows in _ROWS.items()
        for name, sentence, cause, wrong in rows
    )


_LLAMA3 = RopeScaling("llama3", 8.0, 64, low_freq_factor=1.0, high_freq_factor=4.0)

CODE_FAULTS: tuple[Fault, ...] = (
    *_functions(),
    Fault(
        "rope_scaled",
        "The rotary frequencies are divided by two.",
        cause="rotary scaling",
        config={"rope_scaling": RopeScaling("linear", 2.0)},
        **_PLACES["tables"],
    ),
    Fault(
        "rope_llama3",
        "The rotary frequencies are stretched as Llama 3.1 does.",
        cause="rotary scaling",
        config={"rope_scaling": _LLAMA3},
        **_PLACES["tables"],
    ),
    Fault(
        "rope_theta_measured",
        "The rotary base is 123,456.",
        cause="rotary base",
        config={"rope_theta": 123456.0},
        **_PLACES["tables"],
    ),
    Fault(
        "norm_eps_zero",
        "The norms add nothing to the variance.",
        cause="norm epsilon",
        config={"rms_norm_eps": 0.0},
        **_PLACES["norm"],
    ),
)
"""Every one of them."""
