"""Experts that are given their own tokens alone, against experts that see all: the same rows are looked up.

Rows are told apart by what the experts are *given*, never by what they return: a wrong result cannot choose its row.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from firstdiff.diff.leaves import kind_of
from firstdiff.traces import digest
from firstdiff.traces.part import Cut, part_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from firstdiff.diff.align import Pair
    from firstdiff.diff.compare import Comparison
    from firstdiff.traces import Trace
    from firstdiff.traces.schema import Activation

Shape = tuple[int, ...]
_MOST_ROWS = 1 << 26
"""Distances that are worked out at most, rows of one side times rows of the other."""
_PIECE = 256


def nearest_rows(few: np.ndarray, many: np.ndarray) -> tuple[int, ...] | None:
    """For each row of ``few`` [n, features] the nearest of ``many`` [m, features]; None for too many of them."""
    if len(few) * len(many) > _MOST_ROWS:
        return None
    table = many.astype(np.float64)
    squares = np.einsum("ij,ij->i", table, table)
    found: list[int] = []
    for start in range(0, len(few), _PIECE):
        rows = few[start : start + _PIECE].astype(np.float64)
        found += np.argmin(squares - 2 * rows @ table.T, axis=1).tolist()
    return tuple(found)


def expert_of(activation: Activation, number: int, trace: Trace) -> Activation:
    """Expert ``number`` of a tensor [experts, ...] as a part."""
    shape = activation.shape
    cut = Cut(shape, 0, number, number + 1, shape[1:], words=f"[{number}]")
    return _part(activation, cut, trace)


def rows_of(activation: Activation, rows: Sequence[int], trace: Trace) -> Activation:
    """Token rows of a tensor [..., features] as a part [rows, features]."""
    width = activation.shape[-1]
    read = (prod(activation.shape) // width, width)
    cut = Cut(read, 0, 0, 0, (len(rows), width), tuple(rows), words="[its tokens]")
    return _part(activation, cut, trace)


def _part(whole: Activation, cut: Cut, trace: Trace) -> Activation:
    part = part_of(whole, cut)
    return replace(part, digest=digest(np.ascontiguousarray(trace.stored(part)), part.dtype))


def expert_rows(
    whole: tuple[Activation, Activation],
    number: int,
    expert: tuple[Activation, Activation],
    trace: Trace,
    others: Trace,
) -> list[tuple[Activation, Activation]]:
    """(part of the whole, expert's tensor) of what expert ``number`` is given and returns; [] where no rows fit.

    ``whole`` and ``expert`` are (input, result); the whole's result is [experts, ..., features], its input the same
    or the tokens that all experts share. ``trace`` is the whole's, ``others`` the expert's.
    """
    given, result = whole[0], expert_of(whole[1], number, trace)
    tokens = prod(result.shape) // result.shape[-1]
    if prod(given.shape) // given.shape[-1] != tokens:
        if given.shape[0] != whole[1].shape[0]:
            return []
        given = expert_of(given, number, trace)
    width = expert[0].shape[-1]
    if given.shape[-1] != width or len(expert[0].shape) != 2 or len(expert[1].shape) != 2:
        return []
    if any(a.place is None for a in (*whole, *expert)):
        return []
    rows = nearest_rows(others.values(expert[0]), trace.values(given).reshape(-1, width))
    if rows is None:
        return []
    parts = (rows_of(given, rows, trace), rows_of(result, rows, trace))
    return list(zip(parts, expert, strict=True))


def routed(few: Activation, many: Activation) -> bool:
    """Whether ``few`` [n, features] may be rows of ``many`` [..., features]."""
    same = len(few.shape) == 2 and len(many.shape) >= 2 and few.shape[-1] == many.shape[-1]
    return (
        same
        and 0 < prod(few.shape) < prod(many.shape)
        and kind_of(few) == kind_of(many) == "float"
        and few.place is not None
        and many.place is not None
    )


def with_rows(pairs: Sequence[Pair], traces: Comparison) -> list[Pair]:
    """``pairs`` with those of single experts cut down to the tokens that both sides computed."""
    groups: dict[tuple[object, ...], list[int]] = defaultdict(list)
    for number, pair in enumerate(pairs):
        ours, theirs = pair.reference.key, pair.port.key
        if "expert" in f"{ours.path} {theirs.path}".casefold():
            groups[ours.path, theirs.path, ours.step, ours.call].append(number)
    made = list(pairs)
    for numbers in groups.values():
        for number, pair in _cut_down([pairs[n] for n in numbers], numbers, traces):
            made[number] = pair
    return made


def _cut_down(
    pairs: Sequence[Pair], numbers: Sequence[int], traces: Comparison
) -> Iterator[tuple[int, Pair]]:
    """(number, new pair) of the pairs of one call, when what it is given tells the rows."""
    given = next((p for p in pairs if p.reference.key.site == "input" and _sides(p)), None)
    if given is None:
        return
    rows = _rows(given, traces)
    side = _sides(given)
    for number, pair in zip(numbers, pairs, strict=True):
        if rows is None or _sides(pair) != side:
            continue
        many = pair.port if side == "port" else pair.reference
        part = rows_of(many, rows, traces.port if side == "port" else traces.reference)
        yield number, replace(pair, port=part) if side == "port" else replace(pair, reference=part)


def _rows(pair: Pair, traces: Comparison) -> tuple[int, ...] | None:
    ours, theirs = traces.reference.values(pair.reference), traces.port.values(pair.port)
    few, many = (ours, theirs) if _sides(pair) == "port" else (theirs, ours)
    return nearest_rows(few, many.reshape(-1, few.shape[-1]))


def _sides(pair: Pair) -> str:
    """The side that has more rows; empty where neither is rows of the other."""
    if routed(pair.reference, pair.port):
        return "port"
    return "reference" if routed(pair.port, pair.reference) else ""
