"""Faults in the conversion of weights: more entries of the catalogue, as one table."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from firstdiff.models.fault import Fault

if TYPE_CHECKING:
    from collections.abc import Callable

    Read = Callable[[str], np.ndarray]
    Change = Callable[[str, Read], np.ndarray]
    Edit = Callable[[np.ndarray], np.ndarray]

HEADS = 4
"""Query heads of the tiny model that the faults are seeded into; others are cut into as many parts."""


def _edited(ending: str, edit: Edit) -> Change:
    """Every tensor whose name ends with ``ending`` (or any of several, by commas), edited."""

    def change(name: str, read: Read) -> np.ndarray:
        tensor = read(name)
        return (
            edit(tensor).astype(tensor.dtype) if name.endswith(tuple(ending.split(","))) else tensor
        )

    return change


def _swapped_layers(part: str) -> Change:
    """``part`` of layers 0 and 1 exchanged; an empty part exchanges everything."""
    partner = {f".layers.0.{part}": f".layers.1.{part}", f".layers.1.{part}": f".layers.0.{part}"}

    def change(name: str, read: Read) -> np.ndarray:
        for one, other in partner.items():
            if one in name:
                return read(name.replace(one, other))
        return read(name)

    return change


def _swapped(one: str, other: str) -> Change:
    def change(name: str, read: Read) -> np.ndarray:
        parts = {one: other, other: one}
        return read(".".join(parts.get(part, part) for part in name.split(".")))

    return change


def _rotary_rows(tensor: np.ndarray) -> np.ndarray:
    """Rows of each head from halves to neighbours, as Meta stores them: [h*d, ...]."""
    parts = tensor.reshape(HEADS, 2, -1, *tensor.shape[1:])
    return parts.swapaxes(1, 2).reshape(tensor.shape)


def _head_rows(tensor: np.ndarray) -> np.ndarray:
    """Heads in reverse order: [h*d, ...]."""
    return tensor.reshape(HEADS, -1, *tensor.shape[1:])[::-1].reshape(tensor.shape)


def _head_columns(tensor: np.ndarray) -> np.ndarray:
    return _head_rows(tensor.T).T


def _to_int8(tensor: np.ndarray) -> np.ndarray:
    step = np.abs(tensor).max(axis=1, keepdims=True) / 127
    rounded: np.ndarray = np.rint(tensor / step) * step
    return rounded


def _to_bfloat16(tensor: np.ndarray) -> np.ndarray:
    bits = np.asarray(tensor, np.float32).view(np.uint32)
    bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)
    return bits.view(np.float32)


def _row_zero(tensor: np.ndarray) -> np.ndarray:
    tensor = np.array(tensor)
    tensor[5] = 0
    return tensor


def _one_sign(tensor: np.ndarray) -> np.ndarray:
    tensor = np.array(tensor)
    tensor[7, int(np.abs(tensor[7]).argmax())] *= -1
    return tensor


def _bias_layout(tensor: np.ndarray) -> np.ndarray:
    """The bias read as [d, h] instead of [h, d]."""
    return tensor.reshape(HEADS, -1).T.reshape(-1)


def _reshaped(tensor: np.ndarray) -> np.ndarray:
    """What a reshape to [in, out] gives where a transpose is meant, handed over as [out, in]."""
    return tensor.reshape(tensor.shape[::-1]).T


_ATTENTION, _MLP = "layers.0.self_attn.", "layers.0.mlp."
_TABLE: tuple[tuple[str, str, str, str, Change], ...] = (
    # name, sentence, cause, module, change
    (
        "q_proj_transposed",
        "The kernel of q_proj, square, was not transposed.",
        "kernel transposed",
        f"{_ATTENTION}q_proj",
        _edited("q_proj.weight", np.transpose),
    ),
    (
        "gate_reshaped",
        "The kernel of gate_proj was reshaped, not transposed.",
        "kernel transposed",
        f"{_MLP}gate_proj",
        _edited("gate_proj.weight", _reshaped),
    ),
    (
        "k_bias_missing",
        "The biases of k_proj stayed zero.",
        "bias missing",
        f"{_ATTENTION}k_proj",
        _edited("k_proj.bias", np.zeros_like),
    ),
    (
        "v_bias_missing",
        "The biases of v_proj stayed zero.",
        "bias missing",
        f"{_ATTENTION}v_proj",
        _edited("v_proj.bias", np.zeros_like),
    ),
    (
        "q_bias_doubled",
        "The biases of q_proj are added twice.",
        "bias doubled",
        f"{_ATTENTION}q_proj",
        _edited("q_proj.bias", lambda b: 2 * b),
    ),
    (
        "q_bias_permuted",
        "The biases of q_proj were read as [head_dim, heads].",
        "bias permuted",
        f"{_ATTENTION}q_proj",
        _edited("q_proj.bias", _bias_layout),
    ),
    (
        "kv_swapped",
        "k_proj and v_proj hold each other's weights.",
        "weights swapped",
        f"{_ATTENTION}k_proj",
        _swapped("k_proj", "v_proj"),
    ),
    (
        "v_layers_swapped",
        "v_proj of two layers hold each other's weights.",
        "weights swapped",
        f"{_ATTENTION}v_proj",
        _swapped_layers("self_attn.v_proj"),
    ),
    (
        "down_layers_swapped",
        "down_proj of two layers hold each other's weights.",
        "weights swapped",
        f"{_MLP}down_proj",
        _swapped_layers("mlp.down_proj"),
    ),
    (
        "layers_swapped",
        "The first two layers hold each other's weights.",
        "weights swapped",
        "layers.0.input_layernorm",
        _swapped_layers(""),
    ),
    (
        "q_heads_reversed",
        "The heads of q_proj are in another order.",
        "channel permutation",
        f"{_ATTENTION}q_proj",
        _edited("q_proj.weight,q_proj.bias", _head_rows),
    ),
    (
        "q_rotary_rows",
        "The rows of q_proj are in Meta's rotary order.",
        "channel permutation",
        f"{_ATTENTION}q_proj",
        _edited("q_proj.weight,q_proj.bias", _rotary_rows),
    ),
    (
        "o_columns_reversed",
        "The inputs of o_proj are in another order of heads.",
        "kernel rearranged",
        f"{_ATTENTION}o_proj",
        _edited("o_proj.weight", _head_columns),
    ),
    (
        "gate_row_zero",
        "One row of gate_proj was lost.",
        "few channels",
        f"{_MLP}gate_proj",
        _edited("gate_proj.weight", _row_zero),
    ),
    (
        "gate_one_sign",
        "One number of gate_proj has the wrong sign.",
        "few channels",
        f"{_MLP}gate_proj",
        _edited("gate_proj.weight", _one_sign),
    ),
    (
        "gate_bfloat16",
        "The kernel of gate_proj was rounded to bfloat16.",
        "low precision",
        f"{_MLP}gate_proj",
        _edited("gate_proj.weight", _to_bfloat16),
    ),
    (
        "gate_int8",
        "The kernel of gate_proj was rounded to int8.",
        "low precision",
        f"{_MLP}gate_proj",
        _edited("gate_proj.weight", _to_int8),
    ),
    (
        "all_bfloat16",
        "All weights were rounded to bfloat16.",
        "low precision",
        "embed_tokens",
        _edited("weight,bias", _to_bfloat16),
    ),
    (
        "embedding_scaled",
        "The embedding is multiplied by the root of the hidden size.",
        "embedding scale",
        "embed_tokens",
        _edited("embed_tokens.weight", lambda e: e * e.shape[1] ** 0.5),
    ),
    (
        "embedding_shifted",
        "The rows of the embedding are off by one.",
        "token ids shifted",
        "embed_tokens",
        _edited("embed_tokens.weight", lambda e: np.roll(e, 1, axis=0)),
    ),
    (
        "scale_not_loaded",
        "The scales of the first norms stayed at one.",
        "norm scale missing",
        "layers.0.input_layernorm",
        _edited("input_layernorm.weight", np.ones_like),
    ),
    (
        "last_scale_not_loaded",
        "The scale of the last norm stayed at one.",
        "norm scale missing",
        "norm",
        _edited("model.norm.weight", np.ones_like),
    ),
    (
        "scale_minus_one",
        "The norms' scales were stored minus one, and the code does not add it.",
        "norm scale convention",
        "layers.0.input_layernorm",
        _edited("norm.weight", lambda s: s - 1),
    ),
)

CONVERSION_FAULTS: tuple[Fault, ...] = tuple(
    Fault(name, sentence, cause=cause, module=module, activation=module, weights=change)
    for name, sentence, cause, module, change in _TABLE
)
"""Every one of them."""
