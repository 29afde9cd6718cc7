"""Which layout a pair has, found from its elements. Layouts that fit the shapes are `layout`'s business."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from firstdiff.diff.measure import Side
from firstdiff.traces.dtypes import widen

if TYPE_CHECKING:
    from collections.abc import Sequence

    from firstdiff.diff.layout import Layout
    from firstdiff.traces.schema import Digest

_SAMPLE = 4096
_SEED = 0x0F1A57D1
DECISIVE = 10.0
"""A layout other than the plainest must have so many times less error."""
GUESS = 1.25
"""Where the shapes differ, even the plainest layout is a guess: so many times less error is enough."""
NEAR = 8.0
"""... and an error within so many times the floor: the FAIL limit."""
_SLACK = 4.0


def choose_layout(
    reference: Side,
    port: Side,
    fitting: Sequence[Layout],
    noise: float,
    valid: np.ndarray | None = None,
) -> Layout:
    """The layout of ``fitting`` (plainest first) with the smallest error over a sample of elements.

    The identity stays unless another one is decisively better and lands near the floor, a relative L2 of ``noise``.
    Where the shapes differ the smallest error wins. A sample decides, so the winner is to be measured in full.
    ``valid`` as for `measure`.
    """
    plain = fitting[0]
    if len(fitting) == 1:
        return plain
    places = sample(reference.stored.shape, valid)
    if not places.size:
        return plain
    errors = [sampled_error(reference, port, layout, places) for layout in fitting]
    best = int(np.argmin(errors))
    if plain.kind != "identity":
        return fitting[best] if errors[0] > GUESS * errors[best] else plain
    decisive = errors[0] > DECISIVE * errors[best] and errors[best] <= NEAR * noise
    return fitting[best] if decisive else plain


def nearest_layout(
    reference: Side, port: Side, fitting: Sequence[Layout], valid: np.ndarray | None = None
) -> Layout:
    """The layout of ``fitting`` (plainest first) with the smallest error over a sample, whether or not it is small.

    Another one than the plainest has a quarter less error at least. ``valid`` as for `measure`.
    """
    places = sample(reference.stored.shape, valid) if len(fitting) > 1 else np.zeros(0, int)
    if not places.size:
        return fitting[0]
    errors = [sampled_error(reference, port, layout, places) for layout in fitting]
    best = int(np.argmin(errors))
    return fitting[best] if errors[0] > GUESS * errors[best] else fitting[0]


def can_help(reference: Digest | None, port: Digest | None, noise: float) -> bool:
    """Whether any rearrangement of elements could bring the error near the floor: their root mean squares must agree.

    | rms(port) - rms(reference) | <= relative L2 * rms(reference) in the right layout. Digests cover padded rows, so
    the test has slack, and only says no when it is sure.
    """
    if reference is None or port is None or reference.rms == 0:
        return True
    gap = abs(port.rms - reference.rms) / reference.rms
    return gap <= max(_SLACK * NEAR * noise, 0.05)


def sample(shape: tuple[int, ...], valid: np.ndarray | None) -> np.ndarray:
    """Flat positions of at most 4096 elements of real tokens, the same ones every time."""
    size = int(np.prod(shape))
    drawn = np.random.default_rng(_SEED).integers(0, max(size, 1), _SAMPLE)
    places: np.ndarray = np.arange(size) if size <= _SAMPLE else np.unique(drawn)
    if valid is None or not size:
        return places
    real = np.broadcast_to(valid, shape)[np.unravel_index(places, shape)]
    return np.asarray(places[real])


def sampled_error(reference: Side, port: Side, layout: Layout, places: np.ndarray) -> float:
    """Relative L2 over the flat positions ``places`` of the reference; inf when nothing there is finite."""
    index = np.unravel_index(places, layout.shape)
    ours = _numbers(Side(layout.reference(reference.stored)[index], reference.dtype))
    theirs = _numbers(Side(layout.port(port.stored)[index], port.dtype))
    finite = np.isfinite(ours) & np.isfinite(theirs)
    norm = float(np.linalg.norm(ours[finite]))
    error = float(np.linalg.norm(theirs[finite] - ours[finite]))
    if not finite.any() or not norm:
        return float("inf")
    return error / norm


def _numbers(side: Side) -> np.ndarray:
    values = widen(np.ascontiguousarray(side.stored), side.dtype)
    return values.astype(np.complex128 if values.dtype.kind == "c" else np.float64)
