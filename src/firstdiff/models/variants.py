"""Right ports that round differently: what must not be called a divergence. The counterpart of the seeded faults.

A variant changes a function of `ops`, the tensors while they are loaded, or linen's layers, never the model's code.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from firstdiff.models.qwen2 import right
from firstdiff.traces.errors import OptionError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Read = Callable[[str], np.ndarray]
    Change = Callable[[str, Read], np.ndarray]


@dataclass(frozen=True)
class Variant:
    """One other right way."""

    name: str
    """How a benchmark names it."""
    sentence: str
    """What the port does differently, in words."""
    functions: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    """Functions of `ops` in another form, by name."""
    weights: Change | None = None
    """What the port loads for a tensor; None for the tensors as they are."""
    layers: tuple[tuple[str, str], ...] = ()
    """linen only: `dense` or `embed`, and the name in `qwen2.right_layers` that takes its place."""


VARIANTS: dict[str, Variant] = {}


def find_variant(name: str) -> Variant:
    """The variant called ``name``; OptionError with all names if there is none."""
    if name not in VARIANTS:
        raise OptionError(f"variant {name!r}: no such variant; there are {', '.join(VARIANTS)}.")
    return VARIANTS[name]


def _add(name: str, sentence: str, **rest: Any) -> None:
    VARIANTS[name] = Variant(name, sentence, **rest)


def _function(name: str, of: str, function: Callable[..., Any], sentence: str) -> None:
    _add(name, sentence, functions={of: function})


_ATTENTION = "eager_attention_forward"
_function("norm_scaled_float32", "rms_norm", right.norm_scaled_in_float32,
          "Norms multiply by their scale in float32, before rounding.")  # fmt: skip
_function("norm_backwards", "rms_norm", right.norm_summed_backwards,
          "Norms add up from the last channel, one by one, and divide by the root.")  # fmt: skip
_function("norm_by_dot", "rms_norm", right.norm_by_dot,
          "Norms take the mean square as a scalar product.")  # fmt: skip
_function("attention_float32", _ATTENTION, right.attention_with_float32_weights,
          "Scores and attention weights stay in float32.")  # fmt: skip
_function("attention_grouped", _ATTENTION, right.attention_grouped,
          "Query heads are grouped; keys and values are not repeated.")  # fmt: skip
_function("queries_scaled", _ATTENTION, right.attention_scaled_queries,
          "The queries are scaled instead of the scores.")  # fmt: skip
_function("mask_by_where", _ATTENTION, right.attention_masked_by_where,
          "Masked scores are replaced instead of added to.")  # fmt: skip
_function("attention_in_blocks", _ATTENTION, right.attention_in_blocks,
          "Keys are looked at in blocks, with a running maximum.")  # fmt: skip
_function("mask_of_minus_1e9", "causal_mask", right.mask_of_minus_a_billion,
          "The mask holds -1e9.")  # fmt: skip
_function("silu_float32", "silu", right.silu_in_float32, "The activation is computed in float32.")
_function("silu_by_division", "silu", right.silu_by_division,
          "The activation is x / (1 + exp(-x)).")  # fmt: skip
_function("rotary_float32", "apply_rotary_pos_emb", right.rotary_in_float32,
          "Queries and keys are turned in float32.")  # fmt: skip
_function("residual_float32", "add_residual", right.residual_in_float32,
          "Residuals are added in float32.")  # fmt: skip


def _scaled_queries(name: str, read: Read) -> np.ndarray:
    """1/sqrt(head_dim) in the weights and biases of q."""
    tensor = read(name)
    if ".q_proj." not in name:
        return tensor
    return np.asarray(tensor.astype(np.float32) * _HEAD_DIM**-0.5, tensor.dtype)


def _neighbours(name: str, read: Read) -> np.ndarray:
    """Rows of q and k ordered by neighbours, as Meta stores them: the code turns neighbours then."""
    tensor = read(name)
    if ".q_proj." not in name and ".k_proj." not in name:
        return tensor
    heads = tensor.reshape(-1, 2, _HEAD_DIM // 2, *tensor.shape[1:])
    return np.ascontiguousarray(heads.swapaxes(1, 2)).reshape(tensor.shape)


def _folded_norms(name: str, read: Read) -> np.ndarray:
    """The scales of both norms of a layer in the weights behind them; the norms' own are 1."""
    tensor = read(name)
    if name.endswith(_NORMS) and ".layers." in name:
        return np.ones_like(tensor)
    for norm, readers in _BEHIND.items():
        if name.endswith(tuple(f"{reader}.weight" for reader in readers)):
            layer = name.split(".self_attn.")[0].split(".mlp.")[0]
            scale = read(f"{layer}.{norm}.weight").astype(np.float32)
            return (tensor.astype(np.float32) * scale).astype(tensor.dtype)
    return tensor


_HEAD_DIM = 16
"""Of the tiny model."""
_NORMS = ("input_layernorm.weight", "post_attention_layernorm.weight")
_BEHIND = {
    "input_layernorm": ("q_proj", "k_proj", "v_proj"),
    "post_attention_layernorm": ("gate_proj", "up_proj"),
}
_add("scale_folded", "The attention's scale lies in the weights of q.",
     weights=_scaled_queries, functions={"attention_scaling": right.no_scaling})  # fmt: skip
_add("norms_folded", "The norms' scales lie in the weights behind them.", weights=_folded_norms)
_add("rotary_neighbours", "Rotary pairs are neighbours, in the weights and in the code.",
     weights=_neighbours, functions={"rotary_tables": right.rotary_tables_interleaved,
                                     "rotate_half": right.rotate_neighbours})  # fmt: skip
for _name, _sentence in (
    ("backwards", "Linear layers add up from the last input."),
    ("wide", "Linear layers accumulate in float32 and round once."),
    ("split", "Linear layers add float32 partial sums."),
    ("split_narrow", "Linear layers add partial sums that are rounded to the dtype."),
    ("fused", "Linear layers are parts of products twice as wide."),
    ("by_token", "Linear layers take one token after the other."),
):
    _add(f"matmul_{_name}", _sentence, layers=(("dense", _name),))
_add("embedding_one_hot", "The embedding is a product with one-hot rows.",
     layers=(("embed", "OneHotEmbed"),))  # fmt: skip
