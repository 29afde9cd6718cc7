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
_PIECE = 8192
"""Elements at a time: BLAS takes no threads for so few, which would cost more than they save."""
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
    """A sink of the golden run that compares each event with the activation of the same key of another run."""

    def __init__(self, run: Trace, orders: Orders, mask: np.ndarray | None) -> None:
        """``mask`` is bool[batch, tokens], True at real tokens, or None."""
        self._run = run
        self._activations = {a.key: a for a in run.activations}
        self._orders = orders
        self._mask = mask
        self._rows: list[tuple[int, float, float, int]] = []
        self._known: dict[Key, tuple[Activation, tuple[float, float, int]]] = {}

    def __call__(self, event: Event) -> None:
        """Add the row of ``event``; one without a counterpart in the run or the reference adds none."""
        found, order = self._activations.get(event.key), self._orders(event.key)
        if found is None or order is None or found.shape != event.value.shape:
            return
        if not (is_inexact(event.dtype) and is_inexact(found.dtype)):
            return
        known = self._known.get(event.same_as) if event.same_as is not None else None
        if known is not None and known[0].place == found.place:
            norms = known[1]
        else:
            golden = widen(event.value, event.dtype)
            valid = valid_elements(found.shape, self._mask)
            norms = error_norms(self._run.values(found), golden, valid)
        self._known[event.key] = found, norms
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
    kind = np.complex128 if np.iscomplexobj(a) or np.iscomplexobj(b) else np.float64
    error = scale = 0.0
    count = 0
    for start in range(0, a.size, _PIECE):
        piece = slice(start, start + _PIECE)
        x, y = a[piece].astype(kind), b[piece].astype(kind)
        if chosen is not None and not chosen[piece].all():
            x, y = x[chosen[piece]], y[chosen[piece]]
        found = _squares(x, y)
        if not found[0] + found[1] < _FILL:  # NaN, infinity or a fill among them
            use = np.isfinite(x) & (np.abs(y) < _FILL)  # false for NaN and infinity as well
            x, y = x[use], y[use]
            found = _squares(x, y)
        error, scale, count = error + found[0], scale + found[1], count + len(x)
    return error**0.5, scale**0.5, count


def _squares(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Sums of |x - y|² and |y|², of float64 or complex128. ``x`` is overwritten."""
    with np.errstate(invalid="ignore", over="ignore"):
        scale = float(np.vdot(y, y).real)
        x = x - y
        return float(np.vdot(x, x).real), scale
