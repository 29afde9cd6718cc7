"""How much of a reference parameter its pieces make up, and what is left."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    from firstdiff.diff.weights.match import Match, Side


def covered(reference: Side, matches: Iterable[Match]) -> list[Match]:
    """``matches``, each piece with the share of its parameter that all pieces together make up."""
    everything = list(matches)
    shares = {n: _share(reference, n, found) for n, found in _pieces(everything).items()}
    return [
        replace(match, share=shares[match.reference][0], detail=shares[match.reference][1])
        if match.reference in shares
        else match
        for match in everything
    ]


def incomplete(reference: Side, matches: Iterable[Match]) -> list[int]:
    """Reference parameters without a match, and those of which only some slices have one."""
    everything = list(matches)
    whole = {m.reference for m in everything if m.rows is None and not m.reference_fixed}
    slices = {
        number
        for number, found in _pieces(everything).items()
        if any(m.rows is not None for m in found) or not lost(reference, number, found)[1].size
    }
    return [number for number in range(len(reference)) if number not in whole | slices]


def lost(reference: Side, number: int, pieces: Iterable[Match]) -> tuple[int, np.ndarray]:
    """(axis, fibres along it, flat) of a reference parameter that no piece holds; axis -1 for a vector."""
    found = list(pieces)
    shape = reference.parameters[number].shape
    rows = [m for m in found if m.rows is not None]
    axis = rows[0].along[0] if rows else len(shape) - 1 if len(shape) > 1 else -1
    rest = [a for a in range(len(shape)) if a != axis]
    left = np.ones([shape[a] for a in rest] or [1], dtype=bool)
    for piece in found:
        if piece.rows is not None and piece.along[0] == axis:
            left.reshape(-1)[piece.rows[0]] = False
        elif piece.rows is None:
            where = dict(piece.reference_fixed)
            left[tuple(where.get(a, slice(None)) for a in rest)] = False
    return axis, np.flatnonzero(left)


def _pieces(matches: Iterable[Match]) -> dict[int, list[Match]]:
    """By reference parameter, those that are found in pieces or by slices."""
    pieces: dict[int, list[Match]] = defaultdict(list)
    for match in matches:
        if match.rows is not None or match.reference_fixed:
            pieces[match.reference].append(match)
    return pieces


def _share(reference: Side, number: int, pieces: list[Match]) -> tuple[float, str]:
    axis, which = lost(reference, number, pieces)
    parameter = reference.parameters[number]
    total = parameter.size // parameter.shape[axis] if axis >= 0 else parameter.size
    if not which.size:
        return 1.0, ""
    word = "element" if axis < 0 else "row" if axis == len(parameter.shape) - 1 else "column"
    return 1 - which.size / total, _words(which, total, word)


def _words(which: np.ndarray, total: int, word: str) -> str:
    """`row 3 of 64 differs`, `columns 0, 7 and 12 more of 64 differ`."""
    if which.size > 2 and which[-1] - which[0] == which.size - 1:
        return f"{word}s [{which[0]}:{which[-1] + 1}] of {total} differ"
    some = ", ".join(str(n) for n in which[:4])
    more = f" and {which.size - 4} more" if which.size > 4 else ""
    plural = which.size > 1
    return f"{word}{'s' if plural else ''} {some}{more} of {total} differ{'' if plural else 's'}"
