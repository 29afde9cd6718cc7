"""Vectors that lie in longer ones: the biases of a fused projection. They follow the rows of their weights.

Apart from `fused`: a vector has no fibres, and single values of low precision repeat too often to be looked up.
"""

from __future__ import annotations

from itertools import accumulate, permutations, product
from math import prod
from operator import mul
from typing import TYPE_CHECKING

import numpy as np

from firstdiff.diff.weights.arrangement import solid
from firstdiff.diff.weights.grain import GRAINS
from firstdiff.diff.weights.match import Match, Side
from firstdiff.diff.weights.pattern import recognise
from firstdiff.diff.weights.rows import values_at

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

MOST_ELEMENTS = 1 << 22
_LEAST_LENGTH = 2
_MOST_AXES = 4
_MOST_TEACHERS = 3


def followed(
    reference: Side, port: Side, ours: Sequence[int], theirs: Sequence[int], known: Sequence[Match]
) -> Iterator[Match]:
    """Vectors of ``ours`` whose rows lie where those of their module's weights do, in a vector of ``theirs``."""
    owners: dict[str, list[int]] = {}
    for number in theirs:
        owners.setdefault(port.parameters[number].owner, []).append(number)
    weights: dict[str, list[Match]] = {}
    for match in known:
        if match.rows is not None:
            weights.setdefault(reference.parameters[match.reference].owner, []).append(match)
    for number in ours:
        yield from _follow(reference, port, number, owners, weights)


def _follow(
    reference: Side,
    port: Side,
    number: int,
    owners: dict[str, list[int]],
    weights: dict[str, list[Match]],
) -> Iterator[Match]:
    parameter = reference.parameters[number]
    if not reference.loadable(number) or parameter.size > MOST_ELEMENTS:
        return
    for match in weights.get(parameter.owner, ()):
        for other in owners.get(port.parameters[match.port].owner, ()):
            if not port.loadable(other) or port.parameters[other].size > MOST_ELEMENTS:
                continue
            ours = _rows(reference, number, match.reference, match.along[0], 0, match)
            others = list(_rows(port, other, match.port, match.along[1], 1, match))
            grain = _grain(reference, port, number, other)
            yield from _compared(reference, port, match, (number, other), grain, ours, others)


def _compared(
    reference: Side,
    port: Side,
    match: Match,
    pair: tuple[int, int],
    grain: str,
    ours: Iterable[np.ndarray],
    theirs: Sequence[np.ndarray],
) -> Iterator[Match]:
    """The first of the ways to read both vectors under which their values are equal."""
    for here, there in product(ours, theirs):
        first = values_at(reference, pair[0], (), grain).reshape(-1)[here]
        second = values_at(port, pair[1], (), grain).reshape(-1)[there]
        if len(here) < _LEAST_LENGTH or (first == first[0]).all():
            return
        if _equal(first, second, match.scale, grain):
            scale = 1.0 if np.array_equal(first, second) else match.scale
            yield _match(match, *pair, grain, scale, here, there)
            return


def _equal(first: np.ndarray, second: np.ndarray, scale: float, grain: str) -> bool:
    """Whether the values are equal, or so times the factor of the weights."""
    if np.array_equal(first, second):
        return True
    limit = 2.0**-6 if grain != "float32" else 2.0**-20
    return scale != 1.0 and bool((np.abs(second - scale * first) <= limit * np.abs(second)).all())


def _rows(
    side: Side, vector: int, weights: int, along: int, which: int, match: Match
) -> Iterator[np.ndarray]:
    """Which elements of ``vector``, flat, belong to the rows of the weights: every way that fits the shapes.

    A stack of weights [in, layers, out] has the rows (layers, out); its biases may be stacked as [out, layers].
    """
    assert match.rows is not None
    shape, weighty = side.parameters[vector].shape, side.parameters[weights].shape
    rest = tuple(n for axis, n in enumerate(weighty) if axis != along)
    flat = match.rows[which]
    if prod(shape) != prod(rest):
        return
    yield flat
    if len(rest) > _MOST_AXES:
        return
    for order in list(permutations(range(len(rest))))[1:]:
        laid = tuple(rest[axis] for axis in order)
        if _merges(laid, shape):
            places = np.arange(prod(shape)).reshape(laid)
            yield places.transpose(np.argsort(order)).reshape(-1)[flat]


def _merges(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """Whether the axes of one shape are made by merging neighbours of the other."""
    ours, theirs = (set(accumulate(shape, mul)) for shape in (one, other))
    return ours <= theirs or theirs <= ours


def _match(
    weights: Match,
    number: int,
    other: int,
    grain: str,
    scale: float,
    here: np.ndarray,
    there: np.ndarray,
) -> Match:
    return Match(
        number,
        other,
        grain=grain,
        reference_part=weights.reference_part,
        port_part=weights.port_part,
        port_fixed=tuple((0, index) for _, index in weights.port_fixed),
        order=weights.order.replace("rows: ", "").replace("columns: ", ""),
        order_kind=weights.order_kind,
        scale=scale,
        rows=(here, there),
    )


def as_elsewhere(
    reference: Side,
    port: Side,
    ours: Sequence[int],
    known: Sequence[Match],
    templates: tuple[Sequence[object], Sequence[object]],
) -> Iterator[Match]:
    """Vectors of ``ours`` that lie as their like in other layers do, where their own weights are damaged.

    ``templates`` are what the parameters of both sides are called, whatever the layer.
    """
    taught: dict[object, dict[int, list[Match]]] = {}
    for match in known:
        if match.rows is not None and match.share == 1.0:
            taught.setdefault(templates[0][match.reference], {}).setdefault(
                match.reference, []
            ).append(match)
    for number in ours:
        for pieces in list(taught.get(templates[0][number], {}).values())[:_MOST_TEACHERS]:
            found = [_like(reference, port, number, match, templates[1]) for match in pieces]
            if any(found):
                yield from (match for match in found if match is not None)
                break


def _like(
    reference: Side, port: Side, number: int, match: Match, templates: Sequence[object]
) -> Match | None:
    assert match.rows is not None
    for other, template in enumerate(templates):
        same = template == templates[match.port] and other != match.port
        if not same or port.parameters[other].shape != port.parameters[match.port].shape:
            continue
        if reference.parameters[number].shape != reference.parameters[match.reference].shape:
            continue
        found = next(
            _compared(
                reference,
                port,
                match,
                (number, other),
                match.grain,
                [match.rows[0]],
                [match.rows[1]],
            ),
            None,
        )
        if found is not None:
            return found
    return None


def contained(
    reference: Side, port: Side, ours: Sequence[int], theirs: Sequence[int]
) -> Iterator[Match]:
    """Vectors that are a run of consecutive elements of a longer one, on either side."""
    for number in ours:
        for other in theirs:
            sizes = reference.parameters[number].size, port.parameters[other].size
            if sizes[0] == sizes[1] or max(sizes) > MOST_ELEMENTS or min(sizes) < _LEAST_LENGTH:
                continue
            if not (_vector(reference, number) and _vector(port, other)):
                continue
            grain = _grain(reference, port, number, other)
            first = values_at(reference, number, (), grain).reshape(-1)
            second = values_at(port, other, (), grain).reshape(-1)
            start = _find(first, second) if sizes[0] < sizes[1] else _find(second, first)
            if start is not None:
                matrix = not (_flat(reference, number) or _flat(port, other))
                yield _run(number, other, grain, sizes, start, matrix)


def _run(
    number: int, other: int, grain: str, sizes: tuple[int, int], start: int, matrix: bool
) -> Match:
    short, long = min(sizes), max(sizes)
    rows = np.arange(short), np.arange(start, start + short)
    words = recognise(rows[1], long).words
    if matrix:  # had its rows been there, they would have been found
        kind = "permuted"
        order = "its elements in row-major order, reshaped where a transpose was due"
        return Match(number, other, grain=grain, port_part=words, order=order, order_kind=kind)
    if sizes[0] < sizes[1]:
        return Match(number, other, grain=grain, port_part=words, rows=rows)
    return Match(number, other, grain=grain, reference_part=words, rows=(rows[1], rows[0]))


def _find(short: np.ndarray, long: np.ndarray) -> int | None:
    """Where ``short`` stands in ``long``; None when nowhere, or when it is constant and so could stand anywhere."""
    if (short == short[0]).all():
        return None
    for start in np.flatnonzero(long[: long.size - short.size + 1] == short[0]):
        if np.array_equal(long[start : start + short.size], short):
            return int(start)
    return None


def _flat(side: Side, number: int) -> bool:
    return len(solid(side.parameters[number].shape)) <= 1


def _vector(side: Side, number: int) -> bool:
    return len(solid(side.parameters[number].shape)) <= 3 and side.loadable(number)


def _grain(reference: Side, port: Side, number: int, other: int) -> str:
    """The coarser of the two."""
    pair = reference.prints[number].grain, port.prints[other].grain
    return max(pair, key=GRAINS.index)
