"""A seeded fault, as data. Apart, because the tables that list faults all need it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy as np


REFERENCE_FUNCTIONS = {
    "default_position_ids": "Qwen2Model.forward",
    "causal_mask": "create_causal_mask",
    "rotary_tables": "Qwen2RotaryEmbedding.forward",
    "rotate_half": "rotate_half",
    "apply_rotary_pos_emb": "apply_rotary_pos_emb",
    "repeat_kv": "repeat_kv",
    "attention_scaling": "Qwen2Attention.forward",
    "softmax": "eager_attention_forward",
    "eager_attention_forward": "eager_attention_forward",
    "split_heads": "Qwen2Attention.forward",
    "merge_heads": "Qwen2Attention.forward",
    "rms_norm": "Qwen2RMSNorm.forward",
    "silu": "SiLUActivation.forward",
    "add_residual": "Qwen2DecoderLayer.forward",
}
"""The function of Hugging Face's `modeling_qwen2` that does what each function of `ops` does. Where it has no function
of its own for it, the forward in which it happens."""


@dataclass(frozen=True)
class Fault:
    """One mistake, and where a differ has to find it. Paths as Hugging Face spells them, without `model.`."""

    name: str
    """How the command line names it."""
    sentence: str
    """What the port does wrong, in words."""
    cause: str
    """The class of mistake that an explanation should name."""
    module: str
    """The module whose own computation, or whose code between its children, is wrong first."""
    activation: str
    """Path of the first module-level activation with a wrong value."""
    site: str = "output"
    """`input` where the mistake lies between modules and shows at the next one's input; else `output`."""
    family: str = "qwen2"
    """The model whose port is wrong: `qwen2`, or one of `ported.PORTED`."""
    harmless: bool = False
    """Whether the logits stay right: the fault shows at ``activation`` and heals."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the configuration that the port has wrong."""
    weights: Callable[[str, Callable[[str], np.ndarray]], np.ndarray] | None = None
    """``weights(name, read)``: what the port ends up with for the tensor ``name``; ``read`` gives the right ones."""
    functions: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    """Functions of `ops` that the port has wrong, by name."""

    @property
    def function(self) -> str:
        """The function of the reference that the port has wrong; empty where no function is wrong."""
        return next((REFERENCE_FUNCTIONS.get(name, "") for name in self.functions), "")

    @property
    def port_function(self) -> str:
        """The wrong function of the port; empty where none is."""
        return next((function.__name__ for function in self.functions.values()), "")

    @property
    def between_modules(self) -> bool:
        """Whether the mistake lies in the code between modules, where only functions tell more."""
        return bool(self.functions) and self.site == "input"
