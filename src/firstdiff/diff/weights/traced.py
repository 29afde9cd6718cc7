"""The parameters that a trace tells of: digests always, values where the capture kept them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from firstdiff.diff.weights.match import Side
from firstdiff.diff.weights.table import read_tables

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

    from firstdiff.traces import Trace


def traced_side(trace: Trace) -> Side | None:
    """The parameters of ``trace`` with their fingerprints; None when it holds no digests of parameters.

    Stays valid after the trace is closed.
    """
    side = read_tables(trace.table)
    if side is None or not trace.parameters:
        return side
    kept = trace.parameters
    loaded = tuple(
        replace(p, load=_reader(trace.stored(kept[p.name]))) if p.name in kept else p
        for p in side.parameters
    )
    return Side(loaded, side.prints)


def traced_modules(trace: Trace) -> tuple[tuple[str, str], ...]:
    """(path, class name) of every module that was recorded, in the order in which they ran."""
    classes = dict(trace.header.modules)
    ran = dict.fromkeys(activation.key.path for activation in trace.activations)
    return tuple((path, classes.get(path, "")) for path in ran)


def _reader(stored: np.ndarray) -> Callable[[], np.ndarray]:
    return lambda: stored
