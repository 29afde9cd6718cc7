"""Where in a tensor the error sits: by position in the sequence and by batch row. Apart: it reads elements again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from firstdiff.diff.blocks import paired_blocks
from firstdiff.traces.dtypes import widen
from firstdiff.traces.padding import token_axes

if TYPE_CHECKING:
    from firstdiff.diff.layout import Layout
    from firstdiff.diff.measure import Side

_NEARLY_ALL = 0.9
_GROWTH = 2.0
_EVEN = 3.0


@dataclass(frozen=True)
class Pattern:
    """The error of one activation by token."""

    words: str
    """What it looks like: `position 0 agrees, every later position is wrong`."""
    by_position: tuple[float, ...]
    """Relative L2 ||port - reference|| / ||reference|| of each position of the sequence, over all batch rows, from 0;
    NaN where every row is padded."""
    by_row: tuple[float, ...]
    """Relative L2 of each batch row."""
    wrong: int
    """Real tokens whose error is above the limit."""
    tokens: int
    """Real tokens."""


def find_pattern(
    reference: Side,
    port: Side,
    layout: Layout,
    grid: tuple[int, int],
    padding: np.ndarray | None,
    limit: float,
) -> Pattern | None:
    """The pattern of a float activation over the (batch, tokens) ``grid``, or None when it has no such axes.

    ``limit`` is the relative L2 from which a token counts as wrong; ``padding`` is bool[batch, tokens], True at
    real tokens, or None.
    """
    strides = _strides(layout.reference_shape, grid)
    if strides is None:
        return None
    error, norm = _by_token(reference, port, layout, grid, strides)
    real = np.ones(grid, bool) if padding is None else padding
    wrong = (np.sqrt(error) > limit * np.sqrt(norm)) & real
    return Pattern(
        words=_describe(wrong, real, error, norm),
        by_position=tuple(_ratios((error * real).sum(0), (norm * real).sum(0))),
        by_row=tuple(_ratios((error * real).sum(1), (norm * real).sum(1))),
        wrong=int(wrong.sum()),
        tokens=int(real.sum()),
    )


def _strides(shape: tuple[int, ...], grid: tuple[int, int]) -> tuple[int, int] | None:
    """Flat elements from one batch row to the next, and from one token to the next."""
    axes = token_axes(shape, *grid)
    steps = [int(np.prod(shape[axis + 1 :])) for axis in range(len(shape))]
    if axes is not None:
        return steps[axes[0]], steps[axes[1]]
    if shape and shape[0] == grid[0] * grid[1]:
        return steps[0] * grid[1], steps[0]
    return None


def _by_token(
    reference: Side, port: Side, layout: Layout, grid: tuple[int, int], strides: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """float64[batch, tokens] sums of squares of the error and of the reference."""
    error, norm = np.zeros(grid[0] * grid[1]), np.zeros(grid[0] * grid[1])
    views = layout.reference(reference.stored), layout.port(port.stored)
    for start, one, other in paired_blocks(*views):
        flat = np.arange(start, start + one.size)
        token = flat // strides[0] * grid[1] + flat // strides[1] % grid[1]
        ours, theirs = (
            widen(b, s.dtype).astype(np.float64) for b, s in ((one, reference), (other, port))
        )
        finite = np.isfinite(ours) & np.isfinite(theirs)
        ours, theirs = np.where(finite, ours, 0.0), np.where(finite, theirs, 0.0)
        error += np.bincount(token, (theirs - ours) ** 2, error.size)
        norm += np.bincount(token, ours**2, norm.size)
    return error.reshape(grid), norm.reshape(grid)


def _ratios(error: np.ndarray, norm: np.ndarray) -> list[float]:
    with np.errstate(divide="ignore", invalid="ignore"):
        found: list[float] = np.sqrt(error / norm).tolist()
    return found


def _describe(wrong: np.ndarray, real: np.ndarray, error: np.ndarray, norm: np.ndarray) -> str:
    """Words for bool[batch, tokens] ``wrong``, of which only ``real`` tokens count."""
    if wrong.shape[1] == 1:
        return "one token only: a fault that depends on position cannot show"
    rows = _rows(wrong, real)
    if rows is not None:
        return rows
    ranked, tokens = _from_first_token(wrong, real), _from_first_token(real, real)
    share = ranked.sum(0) / np.maximum(tokens.sum(0), 1)
    share = share[tokens.any(0)]
    first = "the first real token" if not real.all() else "position 0"
    later = "every later one" if not real.all() else "every later position"
    if len(share) > 1 and share[0] == 0 and (share[1:] >= _NEARLY_ALL).all():
        return f"{first} {_agrees(error, real)}, {later} is wrong{_trend(error, norm, real)}"
    last = _last(wrong, real)
    return last or _from(share) or _spread(wrong, real, error, norm)


def _rows(wrong: np.ndarray, real: np.ndarray) -> str | None:
    """Words when some batch rows are wrong and others wholly right."""
    bad = np.asarray(wrong.any(1))
    if bad.all() or not bad.any():
        return None
    padded = ~real.all(1)
    if padded.any() and (bad == padded).all():
        return "only batch rows with padding are wrong"
    numbers = np.flatnonzero(bad).tolist()
    noun, verb = ("row", "is") if len(numbers) == 1 else ("rows", "are")
    return f"only batch {noun} {', '.join(map(str, numbers))} of {bad.size} {verb} wrong"


def _from_first_token(values: np.ndarray, real: np.ndarray) -> np.ndarray:
    """``values`` with every batch row shifted so that its first real token is at position 0."""
    shifted = np.zeros_like(values)
    for row, (line, mask) in enumerate(zip(values, real, strict=True)):
        start = int(mask.argmax())
        shifted[row, : values.shape[1] - start] = line[start:]
    return shifted


def _agrees(error: np.ndarray, real: np.ndarray) -> str:
    firsts = real.argmax(1)
    return "is exact" if not error[np.arange(len(firsts)), firsts].any() else "agrees"


def _last(wrong: np.ndarray, real: np.ndarray) -> str | None:
    """Words when the last token alone is right, or alone is wrong."""
    ends = real.shape[1] - 1 - real[:, ::-1].argmax(1)
    lines = np.arange(len(ends))
    others = real.copy()
    others[lines, ends] = False
    at_end, before = wrong[lines, ends], wrong[others]
    if at_end.all() and not before.any():
        return "only the last position is wrong"
    if not at_end.any() and before.size and before.mean() >= _NEARLY_ALL:
        return "only the last position agrees"
    return None


def _from(share: np.ndarray) -> str | None:
    """Words when everything agrees up to some position and hardly anything after it (sliding windows, blocks)."""
    start = int((share > 0).argmax())
    if start > 1 and share[start:].mean() >= _NEARLY_ALL:
        return f"positions 0 to {start - 1} agree, every one from {start} on is wrong"
    return None


def _spread(wrong: np.ndarray, real: np.ndarray, error: np.ndarray, norm: np.ndarray) -> str:
    count, total = int(wrong.sum()), int(real.sum())
    if count == total:
        return f"every position is wrong{_trend(error, norm, real)}"
    return f"{count} of {total} positions are wrong"


def _trend(error: np.ndarray, norm: np.ndarray, real: np.ndarray) -> str:
    """How the error of wrong tokens goes along the sequence."""
    ratios = np.array(_ratios((error * real).sum(0), (norm * real).sum(0)))
    ratios = ratios[np.isfinite(ratios)][1:]
    if len(ratios) < 4:
        return ""
    half = len(ratios) // 2
    early, late = np.median(ratios[:half]), np.median(ratios[half:])
    if late > _GROWTH * early:
        return ", more so the later it is"
    return ", all by about the same amount" if ratios.max() < _EVEN * ratios.min() else ""
