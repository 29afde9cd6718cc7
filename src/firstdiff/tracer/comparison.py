"""A run compared with the golden run, activation by activation, while it runs.

Apart from `floor.py`, which makes both runs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from firstdiff.traces.dtypes import widen
from firstdiff.traces.padding import valid_elements

if TYPE_CHECKING:
    from firstdiff.tracer.events import Event
    from firstdiff.traces import Trace
    from firstdiff.traces.schema import Activation, Key

ROWS = np.dtype([("order", "<i8"), ("error", "<f8"), ("scale", "<f8"), ("count", "<i8")])
"""One row of `floor/free/<dtype>`: the activation's order, L2 norms of the difference and of the
golden value, and the number of elements that both rest on (real tokens, finite on both sides).
"""
_PIECE = 1 << 20
_FILL = 1e37
"""Larger golden values fill a mask (the lowest number of a dtype): they differ by dtype, not by
rounding.
"""

Orders = Callable[["Key"], "int | None"]
"""Execution order of a key in the reference trace, None where it has none."""


def is_inexact(dtype: str) -> bool:
    """Whether a logical dtype is a floating-point or complex one: what has rounding errors."""
    return dtype.startswith(("float", "bfloat", "complex"))


class Comparison:
    """A sink that compares each event with the golden activation of the same key."""

    def __init__(self, golden: Trace, orders: Orders, mask: np.ndarray | None) -> None:
        """``mask`` is bool[batch, tokens], True at real tokens, or None."""
        self._golden = golden
        self._activations = {a.key: a for a in golden.activations}
        self._orders = orders
        self._mask = mask
        self._rows: list[tuple[int, float, float, int]] = []
        self._known: dict[Key, tuple[Activation, tuple[float, float, int]]] = {}

    def __call__(self, event: Event) -> None:
        """Add the row of ``event``; one without a golden or a reference counterpart adds none."""
        golden, order = self._activations.get(event.key), self._orders(event.key)
        if golden is None or order is None or golden.shape != event.value.shape:
            return
        if not is_inexact(event.dtype):
            return
        known = self._known.get(event.same_as) if event.same_as is not None else None
        if known is not None and known[0].place == golden.place:
            norms = known[1]
        else:
            run_value = widen(event.value, event.dtype)
            valid = valid_elements(golden.shape, self._mask)
            norms = error_norms(run_value, self._golden.values(golden), valid)
        self._known[event.key] = golden, norms
        self._rows.append((order, *norms))

    def rows(self) -> np.ndarray:
        """The rows (dtype `ROWS`), sorted by order."""
        return np.array(sorted(self._rows), dtype=ROWS)


def error_norms(
    value: np.ndarray, golden: np.ndarray, valid: np.ndarray | None
) -> tuple[float, float, int]:
    """(L2 norm of ``value - golden``, L2 norm of ``golden``, elements), in float64.

    Counted are elements that are ``valid`` (a bool array that broadcasts, None for all), finite on
    both sides, and no fill of a mask. Works in pieces: temporary memory does not grow with the
    arrays.
    """
    a, b = value.reshape(-1), golden.reshape(-1)
    chosen = None if valid is None else np.broadcast_to(valid, value.shape).reshape(-1)
    kind = np.complex128 if np.iscomplexobj(a) else np.float64
    error = scale = 0.0
    count = 0
    for start in range(0, a.size, _PIECE):
        piece = slice(start, start + _PIECE)
        x, y = a[piece].astype(kind), b[piece].astype(kind)
        use = np.isfinite(x) & (np.abs(y) < _FILL)  # false for NaN and infinity as well
        if chosen is not None:
            use &= chosen[piece]
        x, y = x[use], y[use]
        error += float(np.sum(np.abs(x - y) ** 2))
        scale += float(np.sum(np.abs(y) ** 2))
        count += int(use.sum())
    return error**0.5, scale**0.5, count
