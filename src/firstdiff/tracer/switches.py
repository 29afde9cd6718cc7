"""Everything about a torch process that changes arithmetic, and the versions of what computes.

Apart, for the header.
"""

from __future__ import annotations

import platform
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from firstdiff.tracer.tensors import dtype_name
from firstdiff.version import __version__

if TYPE_CHECKING:
    from torch import nn


def precision_switches(model: nn.Module) -> dict[str, Any]:
    """Every switch of torch that changes the result of a forward pass of ``model``, by name; JSON
    values.
    """
    device = model_device(model).partition(":")[0].partition(",")[0]
    autocast = torch.is_autocast_enabled(device) if _has_autocast(device) else False
    cuda, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    return {
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "cuda_matmul_tf32": cuda.allow_tf32,
        "cudnn_tf32": cudnn.allow_tf32,
        "cudnn_benchmark": cudnn.benchmark,
        "cudnn_deterministic": cudnn.deterministic,
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
        "fp16_reduced_precision_reduction": cuda.allow_fp16_reduced_precision_reduction,
        "bf16_reduced_precision_reduction": cuda.allow_bf16_reduced_precision_reduction,
        "autocast": dtype_name(torch.get_autocast_dtype(device)) if autocast else None,
        "attention_implementation": attention_implementation(model),
        "default_dtype": dtype_name(torch.get_default_dtype()),
        "threads": torch.get_num_threads(),
        "training": model.training,
    }


def attention_implementation(model: nn.Module) -> str | None:
    """`eager`, `sdpa`, ... of a transformers model; None for others."""
    found = getattr(getattr(model, "config", None), "_attn_implementation", None)
    return found if isinstance(found, str) else None


def _has_autocast(device: str) -> bool:
    return torch.amp.is_autocast_available(device)


def versions() -> dict[str, str]:
    """Versions of firstdiff, python, torch, numpy and, where it is loaded, transformers."""
    found = {
        "firstdiff": __version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
    }
    if torch.version.cuda:
        found["cuda"] = torch.version.cuda
    transformers = sys.modules.get("transformers")
    if transformers is not None:
        found["transformers"] = str(transformers.__version__)
    return found


def model_device(model: nn.Module) -> str:
    """Devices of the parameters and buffers, joined by commas; `cpu` for a model without any."""
    tensors = [*model.parameters(), *model.buffers()]
    return ",".join(dict.fromkeys(str(t.device) for t in tensors)) or "cpu"


def model_dtype(model: nn.Module) -> str:
    """Dtype of most of the floating-point parameters, counted by element; `float32` for a model
    without any.
    """
    counts: dict[str, int] = {}
    for parameter in model.parameters():
        if parameter.is_floating_point():
            name = dtype_name(parameter.dtype)
            counts[name] = counts.get(name, 0) + parameter.numel()
    return max(counts, key=lambda name: counts[name]) if counts else "float32"
