"""What a call of a torch model returns, kept and compared. Apart, because it is no activation: it has no module."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from firstdiff.tracer.leaves import leaves
from firstdiff.tracer.tensors import Unrecordable, storage_array
from firstdiff.traces.dtypes import widen


@dataclass(frozen=True)
class Value:
    """One tensor outside the model's graph: an input or an output of the whole call."""

    array: np.ndarray
    """Storage array, a copy of its own: bits where numpy lacks the dtype."""
    dtype: str
    """Logical dtype."""

    def octets(self) -> np.ndarray:
        """The bytes as uint8[nbytes], to compare exactly."""
        return self.array.reshape(-1).view(np.uint8)


def values(result: object) -> dict[str, Value]:
    """Copies of the tensors in ``result`` by leaf name, caches and tensors without dense values
    left out.
    """
    found = {}
    for name, leaf in leaves(result):
        if isinstance(leaf, torch.Tensor):
            try:
                array, dtype = storage_array(leaf)
            except Unrecordable:
                continue
            found[name] = Value(array.copy(), dtype)
    return found


def distance(one: dict[str, Value], other: dict[str, Value]) -> tuple[bool, float]:
    """(equal in every bit, largest absolute difference); infinite when the outputs differ in kind
    or in NaN.
    """
    if one.keys() != other.keys():
        return False, float("inf")
    largest, bitwise = 0.0, True
    for name, a in one.items():
        b = other[name]
        if a.dtype != b.dtype or a.array.shape != b.array.shape:
            return False, float("inf")
        if not np.array_equal(a.octets(), b.octets()):
            bitwise = False
            largest = max(largest, _max_abs(a, b))
    return bitwise, largest


def _max_abs(a: Value, b: Value) -> float:
    kind = np.complex128 if "complex" in a.dtype else np.float64
    x, y = (widen(v.array, v.dtype).astype(kind) for v in (a, b))
    same = (x == y) | (np.isnan(x) & np.isnan(y))
    with np.errstate(invalid="ignore"):
        gap = np.where(same, 0.0, np.abs(x - y))
    return float("inf") if not np.isfinite(gap).all() else float(gap.max(initial=0.0))
