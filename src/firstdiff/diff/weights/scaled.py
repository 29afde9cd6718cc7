"""Scaled parameters inside others: stacked or fused projections into which 1/sqrt(head_dim) was folded.

Hashes do not survive a factor; (sum of magnitudes)**2 / (sum of squares) of each fibre does. Asked of parameters that
found no equal, so it costs a second reading of those alone.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from firstdiff.diff.weights.approximate import tolerance
from firstdiff.diff.weights.fingerprint import kept_axes
from firstdiff.diff.weights.fused import FibreIndex, Group
from firstdiff.diff.weights.grain import is_integer, numbers
from firstdiff.diff.weights.reading import accumulate, blocks
from firstdiff.diff.weights.rows import fibres_at

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from firstdiff.diff.weights.match import Match, Side

_LEAST_LENGTH = 8
_VOTERS = 64
_LEAST_SHARE = 0.9
_CONFIRMED = 8


@dataclass(frozen=True)
class _Norms:
    """Two numbers of each fibre of one group, flat."""

    shape: np.ndarray
    """(sum of magnitudes)**2 / sum of squares: no factor changes it."""
    squares: np.ndarray
    """Sum of squares."""


def scaled(
    reference: Side,
    port: Side,
    ours: Mapping[int, tuple[int, np.ndarray] | None],
    theirs: Sequence[int],
) -> Iterator[Match]:
    """For each of ``ours`` that lies, times one factor, in one of ``theirs``: the match.

    ``ours`` says which fibres, (axis, flat), are sought; None for all.
    """
    there: dict[int, list[tuple[Group, _Norms]]] = {}
    for number in theirs:
        if _usable(port, number):
            for axis, norms in _norms(port, number).items():
                there.setdefault(port.parameters[number].shape[axis], []).append(
                    ((number, axis), norms)
                )
    index = FibreIndex(port, (), "float32")
    for number, part in ours.items():
        if not (_usable(reference, number) and there):
            continue
        shape = reference.parameters[number].shape
        for axis, norms in sorted(
            _norms(reference, number).items(), key=lambda item: -shape[item[0]]
        ):
            which = np.arange(norms.squares.size)
            if part is not None:
                if axis != part[0]:
                    continue
                which = part[1]
                norms = _Norms(norms.shape[which], norms.squares[which])
            found = _best(reference, port, number, norms, there.get(shape[axis], ()))
            if found is None:
                continue
            group, factor, places = found
            factor = _confirmed(reference, port, (number, axis), group, factor, (which, places))
            if factor:
                yield replace(
                    index.piece(reference, number, axis, group, which, places), scale=factor
                )
                break


def _usable(side: Side, number: int) -> bool:
    parameter = side.parameters[number]
    return side.loadable(number) and len(parameter.shape) >= 2 and not is_integer(parameter.dtype)


def _norms(side: Side, number: int) -> dict[int, _Norms]:
    """By axis, for axes long enough to tell fibres apart."""
    stored = side.stored(number)
    axes = [a for a in kept_axes(stored.shape) if stored.shape[a] >= _LEAST_LENGTH]
    rest = {a: tuple(n for i, n in enumerate(stored.shape) if i != a) for a in axes}
    sums = {a: (np.zeros(rest[a]), np.zeros(rest[a])) for a in axes}
    for lead, start, block in blocks(stored):
        values = np.abs(numbers(block, side.parameters[number].dtype).astype(np.float64))
        for axis in axes:
            for into, what in zip(sums[axis], (values, values * values), strict=True):
                accumulate(into, what, axis, lead, start)
    return {
        a: _Norms((one**2 / np.where(two, two, 1)).reshape(-1), two.reshape(-1))
        for a, (one, two) in sums.items()
    }


def _best(
    reference: Side, port: Side, number: int, norms: _Norms, groups: Sequence[tuple[Group, _Norms]]
) -> tuple[Group, float, np.ndarray] | None:
    """(group, factor, where each fibre lies) of the first group that holds all of them times one factor."""
    for group, other in groups:
        if other.squares.size < norms.squares.size:
            continue
        limit = tolerance(reference, port, number, group[0])
        factor = _vote(norms, other, limit)
        if factor is None:
            continue
        places, ok = _place(norms, other, factor, limit)
        if ok.mean() > _LEAST_SHARE and len(np.unique(places[ok])) == ok.sum() == len(ok):
            return group, factor, places
    return None


def _vote(norms: _Norms, other: _Norms, limit: float) -> float | None:
    """The factor that most of some fibres agree on."""
    some = np.unique(np.linspace(0, norms.shape.size - 1, _VOTERS).astype(np.int64))
    order = np.argsort(other.shape)
    keys = other.shape[order]
    votes: Counter[int] = Counter()
    for key, squares in zip(norms.shape[some], norms.squares[some], strict=True):
        low, high = np.searchsorted(keys, [key * (1 - limit), key * (1 + limit)])
        if squares > 0:
            ratios = np.sqrt(other.squares[order[low:high]] / squares)
            votes.update(
                set(np.round(np.log(ratios[ratios > 0]) / (8 * limit)).astype(int).tolist())
            )
    if not votes:
        return None
    best, count = votes.most_common(1)[0]
    count += max(votes[best - 1], votes[best + 1])
    if count < 0.8 * len(some):
        return None
    rough = float(np.exp(best * 8 * limit))
    places, ok = _place(norms, other, rough, 16 * limit)
    if not ok.any():
        return None
    return float(np.median(np.sqrt(other.squares[places[ok]] / norms.squares[ok])))


def _place(
    norms: _Norms, other: _Norms, factor: float, limit: float
) -> tuple[np.ndarray, np.ndarray]:
    """(nearest fibre of ``other`` for each fibre, whether it is near enough)."""
    order = np.argsort(other.squares)
    keys = other.squares[order]
    wanted = norms.squares * factor**2
    middle = np.searchsorted(keys, wanted)
    best = np.full(wanted.shape, np.inf)
    places = np.zeros(wanted.shape, dtype=np.int64)
    for step in range(-3, 3):
        there = order[np.clip(middle + step, 0, keys.size - 1)]
        far = np.abs(other.squares[there] / np.where(wanted, wanted, 1) - 1) + np.abs(
            other.shape[there] / np.where(norms.shape, norms.shape, 1) - 1
        )
        closer = far < best
        best[closer], places[closer] = far[closer], there[closer]
    return places, best < 4 * limit


def _confirmed(
    reference: Side,
    port: Side,
    ours: Group,
    theirs: Group,
    factor: float,
    rows: tuple[np.ndarray, np.ndarray],
) -> float:
    """``factor`` with its sign, once some fibres are found to hold the same values times it, in any order; else 0."""
    limit = 4 * tolerance(reference, port, ours[0], theirs[0])
    some = np.unique(np.linspace(0, len(rows[0]) - 1, _CONFIRMED).astype(np.int64))
    first = fibres_at(reference, *ours, rows[0][some]) * factor
    second = fibres_at(port, *theirs, rows[1][some])
    for sign in (1, -1):
        distance = np.abs(np.sort(sign * first, axis=1) - np.sort(second, axis=1))
        if (distance <= limit * np.abs(second).max(axis=1, keepdims=True)).all():
            return sign * factor
    return 0.0
