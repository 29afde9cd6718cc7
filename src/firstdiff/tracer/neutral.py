"""How many biases of a torch model add nothing, and how many norm scales multiply by one.

Weights are no part of a trace; these four numbers are, because such weights hide mistakes in a port.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import nn


def neutral_counts(model: nn.Module) -> dict[str, int]:
    """`biases`, `zero_biases`, `norms`, `unit_norms`: parameters of one axis, biases of norms among the first.

    A norm is neutral whose scale is all ones, or all zeros where the class adds one to it (Gemma).
    """
    counts = dict.fromkeys(("biases", "zero_biases", "norms", "unit_norms"), 0)
    for module in model.modules():
        is_norm = type(module).__name__.endswith("Norm")
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.ndim != 1 or parameter.is_meta:
                continue
            values = parameter.detach()
            if name.endswith("bias"):
                counts["biases"] += 1
                counts["zero_biases"] += not bool(torch.any(values))
            elif is_norm and name == "weight":
                counts["norms"] += 1
                counts["unit_norms"] += bool((values == 1).all() or not torch.any(values))
    return counts
