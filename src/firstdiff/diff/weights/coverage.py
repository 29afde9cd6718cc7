"""How much of a reference parameter its pieces make up, and what is left."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from firstdiff.diff.weights.match import Match, Side


def covered(reference: Side, matches: Iterable[Match]) -> list[Match]:
    """``matches``, each piece with the share of its parameter that all pieces together make up."""
    everything = list(matches)
    pieces: dict[int, list[Match]] = defaultdict(list)
    for match in everything:
        if match.rows is not None:
            pieces[match.reference].append(match)
    shares = {number: _share(reference, number, found) for number, found in pieces.items()}
    return [
        match
        if match.rows is None
        else replace(match, share=shares[match.reference][0], detail=shares[match.reference][1])
        for match in everything
    ]


def lost(reference: Side, number: int, pieces: Iterable[Match]) -> tuple[int, np.ndarray]:
    """(axis, fibres along it, flat) of a reference parameter that no piece holds; axis -1 for a vector."""
    found = list(pieces)
    axis = found[0].along[0]
    parameter = reference.parameters[number]
    left = np.ones(parameter.size // parameter.shape[axis] if axis >= 0 else parameter.size, dtype=bool)
    for piece in found:
        if piece.rows is not None and piece.along[0] == axis:
            left[piece.rows[0]] = False
    return axis, np.flatnonzero(left)


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
