"""The table of weights: what Hugging Face calls each tensor, which module owns it, and its shape. One for all ports."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from firstdiff.models.qwen2.config import Qwen2Config

TABLE = (
    # Hugging Face name, below `model.`                leaf         shape as Hugging Face stores it
    ("embed_tokens.weight", "embedding", "vocab hidden"),
    ("layers.{i}.input_layernorm.weight", "scale", "hidden"),
    ("layers.{i}.self_attn.q_proj.weight", "kernel", "query hidden"),
    ("layers.{i}.self_attn.q_proj.bias", "bias", "query"),
    ("layers.{i}.self_attn.k_proj.weight", "kernel", "key hidden"),
    ("layers.{i}.self_attn.k_proj.bias", "bias", "key"),
    ("layers.{i}.self_attn.v_proj.weight", "kernel", "key hidden"),
    ("layers.{i}.self_attn.v_proj.bias", "bias", "key"),
    ("layers.{i}.self_attn.o_proj.weight", "kernel", "hidden query"),
    ("layers.{i}.post_attention_layernorm.weight", "scale", "hidden"),
    ("layers.{i}.mlp.gate_proj.weight", "kernel", "wide hidden"),
    ("layers.{i}.mlp.up_proj.weight", "kernel", "wide hidden"),
    ("layers.{i}.mlp.down_proj.weight", "kernel", "hidden wide"),
    ("norm.weight", "scale", "hidden"),
    ("lm_head.weight", "kernel", "vocab hidden"),  # untied only, and not below `model.`
)


@dataclass(frozen=True)
class Name:
    """One tensor of a checkpoint and its place in a port."""

    hf: str
    """`model.layers.0.self_attn.q_proj.weight`."""
    path: tuple[str | int, ...]
    """`("layers", 0, "self_attn", "q_proj")`, the module that owns it."""
    leaf: str
    """`kernel`, `bias`, `scale` or `embedding`; each port spells it as its framework does."""
    shape: tuple[int, ...]
    """As stored: a kernel is [out, in]."""


def names(config: Qwen2Config) -> tuple[Name, ...]:
    """Every tensor of a model, in the order of the forward pass; a tied head has none of its own."""
    once = [row for row in TABLE if "{i}" not in row[0]]
    per_layer = [row for row in TABLE if "{i}" in row[0]]
    layers = range(config.num_hidden_layers)
    rows = [(*once[0], None), *((*row, i) for i in layers for row in per_layer)]
    rows += [(*row, None) for row in once[1:]]
    if config.tie_word_embeddings:
        rows = [row for row in rows if row[0] != "lm_head.weight"]
    return tuple(_name(config, *row) for row in rows)


def _name(config: Qwen2Config, below: str, leaf: str, shape: str, layer: int | None) -> Name:
    sizes = {
        "vocab": config.vocab_size,
        "hidden": config.hidden_size,
        "wide": config.intermediate_size,
        "query": config.num_attention_heads * config.head_dim,
        "key": config.num_key_value_heads * config.head_dim,
    }
    below = below.format(i=layer)
    modules = below.split(".")[:-1]
    path = tuple(int(part) if part.isdecimal() else part for part in modules)
    hf = below if below.startswith("lm_head") else f"model.{below}"
    return Name(hf, path, leaf, tuple(sizes[size] for size in shape.split()))
