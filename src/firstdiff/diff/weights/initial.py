"""Values that nothing was loaded into: constants, and what initialisers draw."""

from __future__ import annotations

from math import sqrt
from typing import TYPE_CHECKING

import numpy as np

from firstdiff.diff.weights.grain import is_integer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from firstdiff.diff.weights.fingerprint import Fingerprint
    from firstdiff.diff.weights.match import Fixed, Side

_SAMPLE = 1 << 14
_LEAST = 32


def describe(side: Side, number: int, fixed: Fixed = ()) -> str:
    """`still 0`, or `looks like an initialiser: normal, std 0.02`; empty when neither."""
    known, parameter = side.prints[number], side.parameters[number]
    if not fixed and known.constant:
        return f"all {known.min:g}"
    if not side.loadable(number) or is_integer(parameter.dtype):
        return ""
    values = side.numbers(number, fixed).reshape(-1)
    if values.size and (values == values[0]).all():
        return f"all {values[0]:g}"
    shape = [n for axis, n in enumerate(parameter.shape) if axis not in dict(fixed)]
    return _drawn(values[:: max(1, values.size // _SAMPLE)].astype(np.float64), shape)


def is_neutral(known: Fingerprint, leaf: str) -> bool:
    """Whether a bias adds nothing, or a scale multiplies by one."""
    return known.constant and known.max == (0.0 if leaf == "bias" else 1.0)


def _drawn(values: np.ndarray, shape: Sequence[int]) -> str:
    """Which common initialiser the values look like: by their mean, spread and kurtosis."""
    if values.size < _LEAST:
        return ""
    std = float(values.std())
    if not np.isfinite(std) or not std or abs(values.mean()) > 4 * std / sqrt(values.size):
        return ""
    kurtosis = float(((values - values.mean()) ** 4).mean()) / std**4
    margin = 5 / sqrt(values.size)
    kind = (
        "uniform" if abs(kurtosis - 1.8) < margin * 2
        else "normal" if abs(kurtosis - 3) < margin * 5
        else "truncated normal" if abs(kurtosis - 2.37) < margin * 3
        else ""
    )  # fmt: skip
    return f"{kind}, std {std:.3g}{_reason(std, shape)}" if kind else ""


def _reason(std: float, shape: Sequence[int]) -> str:
    """` = 1/sqrt(fan in)` where the spread follows from the shape."""
    for fan in sorted(set(shape)):
        if abs(std * sqrt(fan) - 1) < 0.05:
            return f" = 1/sqrt({fan})"
    return ""
