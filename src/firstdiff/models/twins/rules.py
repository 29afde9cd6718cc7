"""How a twin is made: the model's geometry, and what the port does to its parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["linear", "conv1d", "embedding", "vector", "experts", "conv", "other"]


QKV = Literal["apart", "flat", "head-major", "interleaved"]


@dataclass(frozen=True)
class Geometry:
    """What cutting the attention of a model into heads takes."""

    heads: int
    """Query heads."""
    kv_heads: int
    """Key and value heads."""
    head_dim: int
    """Channels of a head."""


@dataclass(frozen=True)
class Rules:
    """How a twin is made. The defaults give a linen port with the reference's own names."""

    framework: str = "linen"
    """`linen`, `nnx`, `haiku`, `equinox` (which does not transpose), or empty for a plain tree."""
    names: str = "same"
    """A scheme of `SCHEMES`; `opaque` and `lying` as well."""
    qkv: QKV = "apart"
    """How query, key and value are fused."""
    gate_up: bool = False
    """Whether the two matrices of a gated MLP are fused."""
    experts: Literal["as is", "batched", "looped"] = "as is"
    """How experts are kept."""
    stack: int | None = None
    """Axis on which the layers are stacked; None for a loop."""
    split_heads: bool = False
    """Whether projections keep heads apart: [in, heads, head_dim]."""
    rotary: bool = False
    """Whether q and k rows are permuted from half-split to interleaved pairs."""
    scale: bool = False
    """Whether 1/sqrt(head_dim) is folded into q."""
    one_plus: bool = False
    """Whether norms store w - 1."""
    dtype: str = "float32"
    """`float32` or `bfloat16`."""
    shuffle: bool = False
    """Whether parameters come in another order."""
