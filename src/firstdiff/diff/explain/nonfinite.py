"""NaN and infinities: where they were made, and of what."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from firstdiff.diff.explain.exact import Exact
from firstdiff.traces.padding import valid_elements

if TYPE_CHECKING:
    from firstdiff.diff.row import Row
    from firstdiff.traces import Trace

LARGEST = {"float16": 65504.0, "float8_e4m3fn": 448.0, "float8_e5m2": 57344.0}
"""Largest finite numbers of the dtypes that overflow in practice."""


def explain_nonfinite(
    reference: Trace, port: Trace, row: Row, padding: np.ndarray | None
) -> Exact | None:
    """Why the port's tensor of ``row`` is not finite where the reference's is; None when it cannot be told."""
    pair = row.pair
    if (
        pair is None
        or row.layout is None
        or pair.reference.place is None
        or pair.port.place is None
    ):
        return None
    right = np.asarray(reference.values(pair.reference), np.float64)
    wrong = np.asarray(port.values(pair.port), np.float64)
    wrong = np.ascontiguousarray(row.layout.port(wrong)).reshape(right.shape)
    bad = np.isfinite(right) & ~np.isfinite(wrong)
    real = valid_elements(right.shape, padding)
    count = f"{int(bad.sum())} of {bad.size} elements are not finite in the port"
    if not bad.any():
        return None
    if real is not None and not (bad & real).any():
        words = f"{count}, all at padded tokens, which see no token at all: a row of -inf makes NaN in a softmax"
        return Exact("fully masked rows", words)
    largest = LARGEST.get(pair.port.dtype)
    if largest is not None and np.abs(right[bad]).min() > largest:
        return Exact(
            "overflow",
            f"{count}: the reference's numbers there are beyond {largest:g}, the largest {pair.port.dtype}",
        )
    return Exact(None, count)
