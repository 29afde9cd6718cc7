"""The catalogue of seeded faults: what people get wrong when they port a model, each as one small change.

A fault changes one of three things, never the model's code: fields of the configuration, tensors while they are
loaded, or a function between the modules (`qwen2/ops.py`). So one entry serves every port. The common ones are
here, more in `code_faults` and `conversion_faults`; what Qwen2 cannot have is in `family_faults`.
"""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import numpy as np

from firstdiff.models.code_faults import CODE_FAULTS
from firstdiff.models.conversion_faults import CONVERSION_FAULTS
from firstdiff.models.fault import Fault
from firstdiff.models.qwen2 import wrong
from firstdiff.traces.errors import OptionError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["FAULTS", "Fault", "every_fault", "find"]

FAULTS: dict[str, Fault] = {}


def every_fault() -> dict[str, Fault]:
    """All faults by name: of Qwen2, then of the other families."""
    from firstdiff.models.family_faults import FAMILY_FAULTS

    return {**FAULTS, **FAMILY_FAULTS}


def find(name: str) -> Fault:
    """The fault called ``name``, of Qwen2 or of another family; OptionError with the closest names if there is none."""
    every = every_fault()
    if name in every:
        return every[name]
    closest = get_close_matches(name, every, n=3, cutoff=0.5)
    hint = f"closest: {', '.join(closest)}; " if closest else ""
    raise OptionError(f"fault {name!r}: no such fault; {hint}firstdiff demo --list lists all.")


def _seed(name: str, sentence: str, **rest: Any) -> None:
    FAULTS[name] = Fault(name, sentence, **rest)


_Q, _O = "layers.0.self_attn.q_proj", "layers.0.self_attn.o_proj"


# Between the modules ------------------------------------------------------------------------------------------

_CORE: dict[str, Any] = {"module": "layers.0.self_attn", "activation": _O, "site": "input"}

_seed(
    "rotary_interleaved",
    "The rotary embedding pairs even channels with odd ones instead of the two halves.",
    cause="rotary pairing",
    functions={"rotate_half": wrong.rotate_half_interleaved},
    **_CORE,
)
_seed(
    "gqa_tiled",
    "Key-value heads are tiled (0 1 0 1) instead of repeated (0 0 1 1).",
    cause="grouped-query head order",
    functions={"repeat_kv": wrong.repeat_kv_tiled},
    **_CORE,
)
_seed(
    "attention_unscaled",
    "The scores are not divided by the square root of head_dim.",
    cause="attention scale",
    functions={"attention_scaling": wrong.attention_scaling_none},
    **_CORE,
)
_seed(
    "softmax_bfloat16",
    "The softmax is computed in bfloat16 instead of float32.",
    cause="low precision",
    functions={"softmax": wrong.softmax_in_bfloat16},
    **_CORE,
)
_seed(
    "heads_not_swapped",
    "Heads are merged by a reshape without bringing tokens before heads.",
    cause="missing transpose",
    functions={"merge_heads": wrong.merge_heads_without_swap},
    **_CORE,
)
_seed(
    "padding_ignored",
    "The attention mask leaves padded tokens visible.",
    cause="padding mask",
    module="",
    activation="layers.0",
    site="input",
    functions={"causal_mask": wrong.causal_mask_without_padding},
)
_seed(
    "causality_missing",
    "The attention mask leaves later tokens visible.",
    cause="causal mask",
    module="",
    activation="layers.0",
    site="input",
    functions={"causal_mask": wrong.causal_mask_without_causality},
)
_seed(
    "positions_plus_one",
    "Positions count from one; rotary attention sees only their differences.",
    cause="position offset",
    module="",
    activation="rotary_emb",
    site="input",
    harmless=True,
    functions={"default_position_ids": wrong.default_position_ids_plus_one},
)
_seed(
    "residual_missing",
    "A branch replaces the residual stream instead of being added to it.",
    cause="residual connection",
    module="layers.0",
    activation="layers.0.post_attention_layernorm",
    site="input",
    functions={"add_residual": wrong.add_residual_missing},
)

# Inside a module ----------------------------------------------------------------------------------------------

_NORM = {"module": "layers.0.input_layernorm", "activation": "layers.0.input_layernorm"}

_seed(
    "norm_one_plus",
    "The norms multiply by one plus the stored scale.",
    cause="norm scale convention",
    functions={"rms_norm": wrong.rms_norm_one_plus},
    **_NORM,
)
_seed(
    "norm_centred",
    "The norms subtract the mean, as a layer norm does.",
    cause="layer norm for RMS norm",
    functions={"rms_norm": wrong.rms_norm_centred},
    **_NORM,
)
_seed(
    "norm_eps",
    "The norms add 1e-5 instead of 1e-6 to the variance.",
    cause="norm epsilon",
    config={"rms_norm_eps": 1e-5},
    **_NORM,
)
_seed(
    "gelu_for_silu",
    "The gate's activation is GELU instead of SiLU.",
    cause="activation function",
    module="layers.0.mlp.act_fn",
    activation="layers.0.mlp.act_fn",
    functions={"silu": wrong.gelu},
)
_seed(
    "rope_theta",
    "The rotary base is 10,000 instead of the configured one.",
    cause="rotary base",
    module="rotary_emb",
    activation="rotary_emb",
    config={"rope_theta": 1e4, "rope_scaling": None},
)

# In the conversion of the weights -----------------------------------------------------------------------------


def _q_bias_missing(name: str, read: Callable[[str], np.ndarray]) -> np.ndarray:
    tensor = read(name)
    return np.zeros_like(tensor) if name.endswith("q_proj.bias") else tensor


def _o_proj_transposed(name: str, read: Callable[[str], np.ndarray]) -> np.ndarray:
    tensor = read(name)
    return tensor.T if name.endswith("o_proj.weight") else tensor


def _swapped(one: str, other: str) -> Callable[[str, Callable[[str], np.ndarray]], np.ndarray]:
    partner = {one: other, other: one}

    def swapped(name: str, read: Callable[[str], np.ndarray]) -> np.ndarray:
        return read(".".join(partner.get(part, part) for part in name.split(".")))

    return swapped


def _head_untied(name: str, read: Callable[[str], np.ndarray]) -> np.ndarray:
    if name != "lm_head.weight":
        return read(name)
    embedding = read("model.embed_tokens.weight")
    drawn = np.random.default_rng(0).normal(0, 0.02, embedding.shape)
    return drawn.astype(embedding.dtype)


_seed(
    "q_bias_missing",
    "The biases of q_proj were never loaded and stayed zero.",
    cause="bias missing",
    module=_Q,
    activation=_Q,
    weights=_q_bias_missing,
)
_seed(
    "o_proj_transposed",
    "The kernel of o_proj, square, was loaded without transposing it.",
    cause="kernel transposed",
    module=_O,
    activation=_O,
    weights=_o_proj_transposed,
)
_seed(
    "gate_up_swapped",
    "gate_proj and up_proj hold each other's weights.",
    cause="weights swapped",
    module="layers.0.mlp.gate_proj",
    activation="layers.0.mlp.gate_proj",
    weights=_swapped("gate_proj", "up_proj"),
)
_seed(
    "norms_swapped",
    "The two norms of each layer hold each other's scales.",
    cause="weights swapped",
    weights=_swapped("input_layernorm", "post_attention_layernorm"),
    **_NORM,
)
_seed(
    "head_untied",
    "The output head was never tied to the embedding and kept its random initialisation.",
    cause="head not tied",
    module="lm_head",
    activation="lm_head",
    config={"tie_word_embeddings": False},
    weights=_head_untied,
)

FAULTS |= {fault.name: fault for fault in (*CODE_FAULTS, *CONVERSION_FAULTS)}
