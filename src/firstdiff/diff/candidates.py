"""What an unpaired activation resembles most on the other side. A hint for people, never a pair."""

from __future__ import annotations

from collections import defaultdict
from heapq import nlargest
from math import prod
from typing import TYPE_CHECKING

from firstdiff.diff.leaves import kind_of
from firstdiff.diff.names import Segments, normalise, similarity
from firstdiff.traces.schema import Activation

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_SHORTLIST = 4
_LEAST_LIKENESS = 0.35
_MOST_COMPARISONS = 1_000_000

Candidate = tuple[Activation | None, float]
"""The activation, and its likeness from 0 to 1."""


def best_candidates(
    found: Sequence[Activation], others: Sequence[Activation]
) -> dict[int, Candidate]:
    """The best of ``others`` for each of ``found``, by the `order` of the latter.

    Paths are shortlisted by shared segments; then names count for two thirds, an equal size for one. Another site or
    another sort of thing is no candidate. Nothing is looked for among more than a million pairs of paths.
    """
    by_path: dict[str, list[Activation]] = defaultdict(list)
    for other in others:
        by_path[other.key.path].append(other)
    mine = {a.key.path for a in found}
    if len(mine) * len(by_path) > _MOST_COMPARISONS:
        return {a.order: (None, 0.0) for a in found}
    segments = {path: normalise(path) for path in by_path}
    likely = {path: _shortlist(path, segments) for path in mine}
    return {a.order: _best(a, likely[a.key.path], by_path) for a in found}


def _shortlist(path: str, others: dict[str, Segments]) -> dict[str, float]:
    """The paths that share most segments with ``path``, each with its similarity."""
    own = normalise(path)
    closest = nlargest(_SHORTLIST, others, key=lambda other: (_shared(own, others[other]), other))
    return {other: similarity(path, other) for other in closest}


def _shared(one: Segments, other: Segments) -> float:
    """Segments in common; a shared last one counts double."""
    last = bool(one and other and one[-1] == other[-1])
    return len(set(one) & set(other)) + last - 0.1 * abs(len(one) - len(other))


def _best(
    activation: Activation, likely: dict[str, float], by_path: dict[str, list[Activation]]
) -> Candidate:
    best: Candidate = (None, 0.0)
    for path, name in likely.items():
        for other in _comparable(activation, by_path[path]):
            likeness = (2 * name + (prod(other.shape) == prod(activation.shape))) / 3
            if likeness > max(best[1], _LEAST_LIKENESS):
                best = (other, likeness)
    return best


def _comparable(activation: Activation, others: Iterable[Activation]) -> Iterable[Activation]:
    return (
        o for o in others if o.key.site == activation.key.site and kind_of(o) == kind_of(activation)
    )
