"""What people use instead of a floor: allclose, PCC, relative difference, each on the pairs of a comparison.

Apart from `verdict.py`, whose figures it stands beside: the same traces, the same pairs, real tokens only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from firstdiff.traces.padding import valid_elements

if TYPE_CHECKING:
    from collections.abc import Iterator

    from firstdiff.diff import Diff, Row
    from firstdiff.traces import Trace

TOLERANCE = {"float32": (1.3e-6, 1e-5), "bfloat16": (1.6e-2, 1e-5), "float16": (1e-3, 1e-5)}
"""rtol and atol of torch.testing.assert_close."""
RULES = ("allclose", "PCC < 0.99", "rel_diff > 1e-3")


def first_failures(
    result: Diff, ours: Trace, theirs: Trace, mask: np.ndarray | None
) -> dict[str, Row | None]:
    """The first row that fails each of `RULES`, None where none does."""
    found: dict[str, Row | None] = dict.fromkeys(RULES)
    for row, a, b in _values(result, ours, theirs, mask):
        for rule in RULES:
            if found[rule] is None and fails(rule, a, b, result.dtype):
                found[rule] = row
        if all(found.values()):
            break
    return found


def _values(
    result: Diff, ours: Trace, theirs: Trace, mask: np.ndarray | None
) -> Iterator[tuple[Row, np.ndarray, np.ndarray]]:
    """Rows with both sides' real elements as flat float64."""
    for row in result.rows:
        if row.pair is None or row.layout is None or row.pair.reference.place is None:
            continue
        if row.measurement is not None and row.measurement.equal:
            continue
        a = np.asarray(row.layout.reference(ours.values(row.pair.reference)), np.float64)
        b = np.asarray(row.layout.port(theirs.values(row.pair.port)), np.float64)
        real = valid_elements(a.shape, mask)
        if real is not None:
            keep = np.broadcast_to(real, a.shape)
            a, b = a[keep], b[keep]
        yield row, a.reshape(-1), b.reshape(-1)


def fails(rule: str, a: np.ndarray, b: np.ndarray, dtype: str) -> bool:
    """Whether two tensors fail one of `RULES`."""
    if np.array_equal(a, b):
        return False
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return True
    if rule == "allclose":
        rtol, atol = TOLERANCE[dtype]
        return not np.allclose(b, a, rtol=rtol, atol=atol)
    scale = max(np.abs(a).max(), np.abs(b).max(), 1e-30)
    a, b = a / scale, b / scale
    if rule == "PCC < 0.99":
        if not a.std() or not b.std():
            return True
        return bool(np.corrcoef(a, b)[0, 1] < 0.99)
    return bool(1 - 2 * (a @ b) / max(a @ a + b @ b, 1e-300) > 1e-3)
