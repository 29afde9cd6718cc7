"""Faults that Qwen2 cannot have, seeded into the ports of other families: more entries of the catalogue.

Apart from `faults`, whose entries all fit every Qwen2 port. Paths as Hugging Face spells them, without the
`model.`, `transformer.` or `encoder.` in front of their layers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from firstdiff.models.bert import wrong as bert
from firstdiff.models.fault import Fault
from firstdiff.models.gemma import wrong as gemma
from firstdiff.models.gpt2 import wrong as gpt2
from firstdiff.models.mixtral import wrong as mixtral
from firstdiff.models.qwen2 import wrong as qwen2
from firstdiff.models.vit import wrong as vit

if TYPE_CHECKING:
    from collections.abc import Callable

    Change = Callable[[str, Callable[[str], np.ndarray]], np.ndarray]

FAMILY_FAULTS: dict[str, Fault] = {}
"""By name; each begins with its family's."""


def _seed(name: str, sentence: str, *, at: str, **rest: Any) -> None:
    """``at``: path of the first wrong activation, its site in front if it is an input; the module where not that."""
    site, _, path = at.rpartition(" ")
    family = name.partition("_")[0]
    places = {"activation": path, "module": path, "site": site or "output"}
    FAMILY_FAULTS[name] = Fault(name, sentence, **{**places, "family": family, **rest})


def _edited(ending: str, edit: Callable[[np.ndarray], np.ndarray]) -> Change:
    """Every tensor whose name ends with one of ``ending`` (by commas), edited."""

    def change(name: str, read: Callable[[str], np.ndarray]) -> np.ndarray:
        return edit(read(name)) if name.endswith(tuple(ending.split(","))) else read(name)

    return change


def _halves_swapped(fused: np.ndarray) -> np.ndarray:
    """[x, 2f, e] with the gate's half and the other exchanged."""
    gate, up = np.split(fused, 2, axis=1)
    return np.concatenate([up, gate], axis=1)


# GPT-2 --------------------------------------------------------------------------------------------------------

_seed(
    "gpt2_gelu_exact",
    "The activation is the exact GELU instead of its tanh form.",
    at="h.0.mlp.act",
    cause="activation function",
    functions={"gelu": gpt2.gelu_exact},
)
# Which columns of c_attn are the query only the code behind it knows: cut in another order in every layer, they are
# the same numbers, and the first that is wrong is what the attention makes of them.
_CUT: dict[str, Any] = {"at": "input h.0.attn.c_proj", "module": "h.0.attn"}

_seed(
    "gpt2_qkv_order",
    "c_attn is cut into key, query and value instead of query, key and value.",
    cause="fused projection order",
    functions={"split_qkv": gpt2.split_qkv_rotated},
    **_CUT,
)
_seed(
    "gpt2_qkv_by_head",
    "c_attn is cut head by head, as GPT-NeoX stores it.",
    cause="fused projection order",
    functions={"split_qkv": gpt2.split_qkv_by_head},
    **_CUT,
)
_seed(
    "gpt2_positions_plus_one",
    "Learned positions are looked up from one instead of zero.",
    at="input wpe",
    module="",
    cause="position offset",
    functions={"default_position_ids": qwen2.default_position_ids_plus_one},
)
_seed(
    "gpt2_norm_eps",
    "The norms add 1e-6, flax's default, instead of 1e-5 to the variance.",
    at="h.0.ln_1",
    cause="norm epsilon",
    config={"layer_norm_epsilon": 1e-6},
)
_seed(
    "gpt2_rms_norm",
    "The norms neither subtract the mean nor add their bias.",
    at="h.0.ln_1",
    cause="RMS norm for layer norm",
    functions={"layer_norm": gpt2.rms_norm},
)
_seed(
    "gpt2_norm_bias_missing",
    "The biases of the first norms were never loaded and stayed zero.",
    at="h.0.ln_1",
    cause="norm bias missing",
    weights=_edited(".ln_1.bias", np.zeros_like),
)
_seed(
    "gpt2_conv1d_transposed",
    "The square c_proj of the attention was transposed, as if it were a Linear.",
    at="h.0.attn.c_proj",
    cause="kernel transposed",
    weights=_edited(".attn.c_proj.weight", np.transpose),
)

_seed(
    "gpt2_positions_one_off",
    "Learned positions are sliced from the second row on instead of the first.",
    at="input h.0",
    module="",
    cause="position offset",
    functions={"add_positions": gpt2.add_positions_one_off},
)
_seed(
    "gpt2_positions_missing",
    "Learned positions are not added.",
    at="input h.0",
    module="",
    cause="position embedding missing",
    functions={"add_positions": gpt2.add_positions_none},
)

# BERT ---------------------------------------------------------------------------------------------------------

_ATTENTION_NORM = "layer.0.attention.output.LayerNorm"

_seed(
    "bert_token_types_missing",
    "The embedding of the token types is not added.",
    at="input embeddings.LayerNorm",
    module="embeddings",
    cause="token types missing",
    functions={"sum_embeddings": bert.sum_embeddings_without_types},
)
_seed(
    "bert_norm_before_sum",
    "Branches are normed before they are added, not the sum behind it.",
    at=f"input {_ATTENTION_NORM}",
    module="layer.0.attention.output",
    cause="residual connection",
    functions={"norm_of_sum": bert.norm_of_branch},
)
_seed(
    "bert_gelu_tanh",
    "The activation is the tanh form of GELU, jax's default, instead of the exact one.",
    at="layer.0.intermediate.intermediate_act_fn",
    cause="activation function",
    functions={"gelu": bert.gelu_tanh},
)
_seed(
    "bert_norm_eps",
    "The norms add 1e-5 instead of 1e-12 to the variance.",
    at="embeddings.LayerNorm",
    cause="norm epsilon",
    config={"layer_norm_eps": 1e-5},
)
_seed(
    "bert_padding_ignored",
    "The attention sees padded tokens.",
    at="input layer.0",
    module="",
    cause="padding mask",
    functions={"padding_mask": bert.padding_mask_none},
)
_seed(
    "bert_last_token_pooled",
    "The pooler takes the last token instead of the first.",
    at="input pooler.dense",
    module="pooler",
    cause="pooled token",
    functions={"first_token": bert.last_token},
)

_seed(
    "bert_positions_missing",
    "Learned positions are not added.",
    at="input embeddings.LayerNorm",
    module="embeddings",
    cause="position embedding missing",
    functions={"sum_embeddings": bert.sum_embeddings_without_positions},
)
_seed(
    "bert_mean_pooled",
    "The pooler averages all tokens instead of taking the first.",
    at="input pooler.dense",
    module="pooler",
    cause="pooled token",
    functions={"first_token": bert.mean_token},
)
_seed(
    "bert_pooler_unactivated",
    "The pooler leaves out its tanh.",
    at="pooler",
    cause="activation function",
    functions={"pooler_activation": bert.pooler_activation_none},
)

# ViT ----------------------------------------------------------------------------------------------------------

_seed(
    "vit_patches_by_column",
    "Patches are numbered column by column instead of row by row.",
    at="embeddings",
    cause="patch order",
    functions={"flatten_grid": vit.flatten_grid_by_column},
)
_seed(
    "vit_class_token_last",
    "The class token stands behind the patches instead of in front of them.",
    at="embeddings",
    cause="class token",
    functions={"join_class_token": vit.join_class_token_last},
)
_seed(
    "vit_class_token_unplaced",
    "The class token gets no position embedding.",
    at="embeddings",
    cause="class token",
    functions={"add_positions": vit.add_positions_to_patches},
)
_seed(
    "vit_kernel_turned",
    "Height and width of the patches' kernel are exchanged.",
    at="embeddings.patch_embeddings.projection",
    cause="kernel transposed",
    weights=_edited("projection.weight", lambda kernel: kernel.swapaxes(-1, -2)),
)
_seed(
    "vit_channels_reversed",
    "The image's channels come blue first instead of red first.",
    at="input embeddings.patch_embeddings.projection",
    module="embeddings.patch_embeddings",
    cause="image layout",
    functions={"channels_last": vit.channels_reversed},
)

_seed(
    "vit_image_upside_down",
    "The image's last row comes first.",
    at="input embeddings.patch_embeddings.projection",
    module="embeddings.patch_embeddings",
    cause="image layout",
    functions={"channels_last": vit.image_upside_down},
)
_seed(
    "vit_positions_one_off",
    "Each patch gets the position of the one before it.",
    at="embeddings",
    cause="position offset",
    functions={"add_positions": vit.add_positions_one_off},
)
_seed(
    "vit_positions_missing",
    "Learned positions are not added.",
    at="embeddings",
    cause="position embedding missing",
    functions={"add_positions": vit.add_positions_none},
)
_seed(
    "vit_patches_pooled",
    "The pooler averages the patches instead of taking the class token.",
    at="input pooler.dense",
    module="pooler",
    cause="pooled token",
    functions={"pooled_token": vit.patches_averaged},
)

# Gemma --------------------------------------------------------------------------------------------------------

_seed(
    "gemma_norm_plain",
    "The norms multiply by the stored scale instead of one plus it.",
    at="layers.0.input_layernorm",
    cause="norm scale convention",
    functions={"shifted_rms_norm": gemma.plain_rms_norm},
)
_seed(
    "gemma_embedding_unscaled",
    "Embeddings are not multiplied by the root of their width.",
    at="embed_tokens",
    cause="embedding scale",
    functions={"scale_embedding": gemma.embedding_unscaled},
)
_seed(
    "gemma_embedding_scale_bfloat16",
    "The factor of the embeddings is rounded to bfloat16 in a float32 model.",
    at="embed_tokens",
    cause="embedding scale",
    functions={"scale_embedding": gemma.embedding_scale_in_bfloat16},
)
_seed(
    "gemma_gelu_exact",
    "The gate's activation is the exact GELU instead of its tanh form.",
    at="input layers.0.mlp.down_proj",
    module="layers.0.mlp.act_fn",
    cause="activation function",
    functions={"gelu": gemma.gelu_exact},
)

_seed(
    "gemma_query_scale",
    "The scores are divided by head_dim instead of its root.",
    at="input layers.0.self_attn.o_proj",
    module="layers.0.self_attn",
    cause="attention scale",
    functions={"attention_scaling": gemma.attention_scaling_by_width},
)

# Mixtral ------------------------------------------------------------------------------------------------------

_ROUTED: dict[str, Any] = {"at": "layers.0.mlp.gate"}

_seed(
    "mixtral_weights_not_renormalised",
    "The weights of the chosen experts do not add up to one.",
    cause="router weights",
    functions={"route": mixtral.route_without_renormalising},
    **_ROUTED,
)
_seed(
    "mixtral_router_bfloat16",
    "The router's softmax is computed in bfloat16 instead of float32.",
    cause="low precision",
    functions={"route": mixtral.route_in_bfloat16},
    **_ROUTED,
)
_seed(
    "mixtral_top_one",
    "One expert is chosen instead of two.",
    cause="number of experts",
    config={"num_experts_per_tok": 1},
    **_ROUTED,
)
_seed(
    "mixtral_experts_unweighted",
    "The chosen experts are averaged; the router's weights are not used.",
    at="layers.0.mlp.experts",
    cause="router weights",
    functions={"combine": mixtral.combine_experts_equally},
)
_seed(
    "mixtral_w1_w3_swapped",
    "Every expert's w1 and w3 hold each other's weights.",
    at="layers.0.mlp.experts",
    cause="weights swapped",
    weights=_edited(".gate_up_proj", _halves_swapped),
)
_seed(
    "mixtral_experts_permuted",
    "The experts are numbered from another one on.",
    at="layers.0.mlp.experts",
    cause="weights swapped",
    weights=_edited(
        "experts.gate_up_proj,experts.down_proj",
        lambda x: np.ascontiguousarray(np.roll(x, 1, axis=0)),
    ),
)
_seed(
    "mixtral_router_sigmoid",
    "The router takes sigmoids instead of a softmax.",
    cause="router weights",
    functions={"route": mixtral.route_by_sigmoid},
    **_ROUTED,
)
_seed(
    "mixtral_experts_summed",
    "The chosen experts are added up; the router's weights are not used.",
    at="layers.0.mlp.experts",
    cause="router weights",
    functions={"combine": mixtral.combine_experts_summed},
)
_seed(
    "mixtral_best_alone",
    "Only the first of the two chosen experts is used, with its weight.",
    at="layers.0.mlp.experts",
    cause="number of experts",
    functions={"combine": mixtral.combine_best_expert},
)
