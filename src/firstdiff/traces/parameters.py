"""One parameter of a model: the record that the extractors of `tracer` and `models` hand to the audit in `diff`.

On the ground floor because both sides of the house use it. Values are loaded when they are asked for.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

Kind = Literal["parameter", "buffer", "computed"]
"""Learned; part of the checkpoint but not learned (running statistics); or made by the model's own code."""


@dataclass(frozen=True)
class Parameter:
    """One named tensor of a model or a checkpoint."""

    name: str
    """Dotted, as its framework spells it: `model.layers.0.self_attn.q_proj.weight`."""
    shape: tuple[int, ...]
    """Shape as stored."""
    dtype: str
    """Logical dtype: `float32`, `bfloat16`, `int8`."""
    load: Callable[[], np.ndarray] | None = field(default=None, compare=False, repr=False)
    """Gives the storage array (bits for bfloat16 and float8) of that shape, perhaps mapped from a file; None where
    only digests were kept."""
    class_name: str = ""
    """Class of the owning module, where it is known: `Linear`, `Conv1D`."""
    framework: str = ""
    """`torch`, `linen`, `nnx`, `haiku`, `equinox`, `keras`; empty for plain trees and files."""
    kind: Kind = "parameter"
    """Whether it must be loaded."""
    aliases: tuple[str, ...] = ()
    """Other names of the very same tensor (a tied head)."""

    @property
    def owner(self) -> str:
        """Path of the module that owns it."""
        return self.name.rpartition(".")[0]

    @property
    def leaf(self) -> str:
        """Its own name inside that module: `weight`, `kernel`."""
        return self.name.rpartition(".")[2]

    @property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.shape)
