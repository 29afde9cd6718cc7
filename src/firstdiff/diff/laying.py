"""Laying two tensors of any layouts on each other: the layout is found from the elements, the error is measured.

Apart from `compare`, which judges pairs that are known to be the same: here that is the question.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, prod
from typing import TYPE_CHECKING

import numpy as np

from firstdiff.diff.inference import NEAR, choose_layout
from firstdiff.diff.layout import broadcast, candidates
from firstdiff.diff.measure import measure
from firstdiff.traces.dtypes import unit_roundoff, widen
from firstdiff.traces.padding import valid_elements

if TYPE_CHECKING:
    from firstdiff.diff.layout import Layout
    from firstdiff.diff.measure import Side

_SAMPLE, _SEED = 2048, 0x0F1A57D1


@dataclass(frozen=True)
class Laid:
    """One tensor laid on another."""

    layout: Layout
    """How: `layout.reference(values)` and `layout.port(other)` are views of one shape."""
    error: float
    """Relative L2 ||other - values|| / ||values|| over real tokens; inf when only one side is finite somewhere."""
    estimated: bool = False
    """Whether the error is the distance of two sketches."""

    @property
    def exact(self) -> bool:
        """Whether no element of a real token differs."""
        return self.error == 0.0


def lay(
    values: Side, other: Side, tolerance: float, padding: np.ndarray | None = None
) -> Laid | None:
    """``other`` laid on ``values`` in the layout with the smallest error, or None when no layout fits the shapes.

    ``tolerance`` is the relative L2 within which the two are taken for equal; it decides between layouts alone.
    ``padding`` is bool[batch, tokens], True at real tokens: padded ones do not count.
    """
    fitting = candidates(values.stored.shape, other.stored.shape)
    if not fitting:
        layout = broadcast(values.stored.shape, other.stored.shape)
        if layout is None or layout.shape != values.stored.shape:
            return None
        fitting = (layout,)
    valid = valid_elements(values.stored.shape, padding)
    layout = choose_layout(values, other, fitting, tolerance / NEAR, valid)
    if valid is None and padding is not None:
        valid = _valid_of_other(layout, values, other, padding)
    found = measure(values, other, layout, valid)
    exact = not unit_roundoff(values.dtype) and not unit_roundoff(other.dtype)
    error = inf if found.unlike or (exact and not found.equal) else found.relative_l2
    return Laid(layout, error)


def closeness(values: Side, other: Side, padding: np.ndarray | None = None) -> float:
    """1 for equal tensors, 0 for unrelated ones or where no layout fits: 1 - the relative L2 over a sample."""
    fitting = candidates(values.stored.shape, other.stored.shape)
    size = prod(values.stored.shape)
    if not fitting or not size:
        return 0.0
    places = np.unique(np.random.default_rng(_SEED).integers(0, size, _SAMPLE))
    valid = valid_elements(values.stored.shape, padding)
    if valid is not None:
        real = np.broadcast_to(valid, values.stored.shape)
        places = places[real[np.unravel_index(places, values.stored.shape)]]
    errors = (_sampled(values, other, layout, places) for layout in fitting)
    return max(0.0, 1.0 - min(errors))


def _sampled(values: Side, other: Side, layout: Layout, places: np.ndarray) -> float:
    index = np.unravel_index(places, layout.shape)
    ours = widen(np.ascontiguousarray(layout.reference(values.stored)[index]), values.dtype)
    theirs = widen(np.ascontiguousarray(layout.port(other.stored)[index]), other.dtype)
    finite = np.isfinite(ours) & np.isfinite(theirs)
    one, two = ours[finite].astype(np.float64), theirs[finite].astype(np.float64)
    norm = float(np.linalg.norm(one))
    return float(np.linalg.norm(two - one)) / norm if norm else inf


def _valid_of_other(
    layout: Layout, values: Side, other: Side, padding: np.ndarray
) -> np.ndarray | None:
    """Where only the other side's shape tells its tokens: its valid elements, laid on ``values``."""
    valid = valid_elements(other.stored.shape, padding)
    if valid is None or layout.kind == "broadcast":
        return None
    full = np.broadcast_to(valid, other.stored.shape)
    return np.ascontiguousarray(layout.port(np.ascontiguousarray(full))).reshape(
        values.stored.shape
    )
