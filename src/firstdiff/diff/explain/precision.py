"""Losses of precision by class: what computes less precisely, in the words that people use for it.

A hypothesis says what was rounded; its class says where that comes from and which switch changes it. Where nothing can
be applied, since a kernel is not in the trace, the size of the error alone is a hint and no more.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from firstdiff.diff.explain.scene import TINY
from firstdiff.traces.dtypes import unit_roundoff

if TYPE_CHECKING:
    from firstdiff.diff.explain.scene import Scene


@dataclass(frozen=True)
class PrecisionClass:
    """A way of computing less precisely than the reference."""

    name: str
    """What it is called."""
    pattern: str
    """Regular expression of the hypotheses' words that show it; its group is the dtype."""
    remedy: str
    """What to change, one sentence."""


_DTYPE = r"(bfloat16|float16|TF32|float8_e4m3fn)"
CLASSES = (
    PrecisionClass(
        "norm without upcast",
        rf"computing the norm in {_DTYPE}",
        "The reference computes the norm in float32: upcast its input, and round its result.",
    ),
    PrecisionClass(
        "softmax without upcast",
        rf"rounding the softmax to {_DTYPE}",
        "The reference computes the softmax in float32: upcast the scores.",
    ),
    PrecisionClass(
        "{dtype} matrix products",
        rf"rounding (?:inputs and kernel|q, k and v) to {_DTYPE}",
        'Matrix products round their operands by default on accelerators: jax_default_matmul_precision="highest".',
    ),
    PrecisionClass(
        "{dtype} partial sums",
        rf"adding \d+ partial sums that are rounded to {_DTYPE}",
        "Accumulate in float32 (preferred_element_type), also across devices.",
    ),
    PrecisionClass(
        "{dtype} weights",
        rf"rounding the kernel to (?:{_DTYPE}|int8 per output channel)",
        "One side was loaded in another dtype: load both as the checkpoint has them.",
    ),
    PrecisionClass(
        "{dtype} rotary tables",
        rf"rounding the (?:frequencies|angles) to {_DTYPE}",
        "Compute the rotary tables in float32, whatever dtype the model has.",
    ),
    PrecisionClass(
        "{dtype} attention scores",
        rf"rounding the (?:scores|probabilities) to {_DTYPE}",
        "Keep scores and probabilities in float32 until they meet the values.",
    ),
    PrecisionClass(
        "{dtype} results",
        rf"rounding the reference's tensor to {_DTYPE}",
        "The port rounds this result: compare dtype and param_dtype of the module.",
    ),
)
"""What is told apart. The first whose pattern fits counts."""

_ROUNDED = 0.39 * 2**0.5
"""Relative L2 error of a product whose two operands were rounded once each, in units of their u."""
_WITHIN = 1.35
"""Factor within which the size of an error is that of rounded operands."""
_EVEN = 2.0
"""Factor within which every channel's error is the same share of the channel's size."""
_LEAST_ROWS, _LEAST_CHANNELS = 16, 16


def precision_class(words: str) -> tuple[str, str]:
    """Name and remedy of the class that the words of a hypothesis belong to; empty for none."""
    for found in CLASSES:
        match = re.fullmatch(found.pattern, words)
        if match:
            dtype = next((group for group in match.groups() if group), "int8")
            return found.name.format(dtype=dtype), found.remedy
    return "", ""


def by_size(scene: Scene) -> str:
    """What the size of the error at a linear layer's result suggests, a sentence; empty where it suggests nothing.

    Rounded operands make an error of 0.55 u, spread evenly over all channels. A hint: other mistakes may be as large.
    """
    if unit_roundoff(scene.target.dtype) > unit_roundoff("float32") or not _is_product(scene):
        return ""
    right, wrong = scene.tokens
    if len(right) < _LEAST_ROWS or right.shape[1] < _LEAST_CHANNELS:
        return ""
    error, size = (np.sqrt((x**2).sum(0)) for x in (wrong - right, right))
    relative = float(np.sqrt((error**2).sum() / max((size**2).sum(), TINY)))
    shares = error / np.maximum(size, TINY)
    if shares.max() > _EVEN * np.median(shares) or shares.min() * _EVEN < np.median(shares):
        return ""
    for name, dtype in (("bfloat16", "bfloat16"), ("TF32 or float16", "float16")):
        if 1 / _WITHIN < relative / (_ROUNDED * unit_roundoff(dtype)) < _WITHIN:
            return (
                f"The error is as large ({relative:.2g} of the result) and as even as that of a product with "
                f"{name} operands; {CLASSES[2].remedy[0].lower()}{CLASSES[2].remedy[1:]}"
            )
    return ""


def _is_product(scene: Scene) -> bool:
    """Whether the tensor is the result of a module that is named a linear layer and has one input."""
    names = scene.target.class_name, scene.row.pair.port.class_name if scene.row.pair else ""
    linear = any(re.search("linear|dense|conv1d", name, re.IGNORECASE) for name in names)
    return linear and len(scene.inputs()) == 1
