"""What a pair of parameters has in common when their values are not the same: a factor, an offset, a quantisation.

Asked only of candidates: parameters that found no equal, and what stands where their values were expected.
"""

from __future__ import annotations

from dataclasses import replace
from math import isclose
from typing import TYPE_CHECKING, Any

import numpy as np

from firstdiff.diff.weights.arrangement import Arrangement, arrangements, sampled
from firstdiff.diff.weights.grain import COARSE, is_integer, numbers
from firstdiff.diff.weights.match import SAME, Match, Side, without

if TYPE_CHECKING:
    from firstdiff.diff.weights.fingerprint import Fingerprint
    from firstdiff.diff.weights.whole import Unit

SAMPLE = 1 << 15
CLOSE = 0.3
"""Relative L2 distance below which two parameters are still called close."""
_TOLERANCE = {"float32": 2.0**-20, "float16": 2.0**-9, "bfloat16": 2.0**-6}
_MOST_ARRANGEMENTS = 6


def compare(reference: Side, port: Side, ours: Unit, theirs: Unit) -> Match | None:
    """The best explanation of ``theirs`` by ``ours``, or None when they have nothing in common."""
    if not (reference.loadable(ours.number) and port.loadable(theirs.number)):
        return _by_moments(reference, port, ours, theirs)
    first, second = reference.parameters[ours.number], port.parameters[theirs.number]
    if is_integer(first.dtype):
        return None
    every = arrangements(without(first.shape, ours.fixed), without(second.shape, theirs.fixed))
    found: list[tuple[float, Match]] = []
    base = Match(ours.number, theirs.number, reference_fixed=ours.fixed, port_fixed=theirs.fixed)
    for one in every[:_MOST_ARRANGEMENTS]:
        x, y = _values(reference, port, ours, theirs, one)
        best = _explain(reference, port, ours, theirs, one, x, y)
        if best is not None:
            distance, changes = best
            others = tuple(a.words for a in every if a.order != one.order)
            found.append(
                (
                    distance,
                    replace(
                        base,
                        relation=one.words,
                        turn=one.turn,
                        forced=not others,
                        others=others,
                        **changes,
                    ),
                )
            )
    return min(found, key=lambda item: item[0])[1] if found else None


def _by_moments(reference: Side, port: Side, ours: Unit, theirs: Unit) -> Match | None:
    """The factor between two whole parameters of which digests alone are known, when all moments tell the same one."""
    first, second = reference.prints[ours.number], port.prints[theirs.number]
    dtypes = reference.parameters[ours.number].dtype, port.parameters[theirs.number].dtype
    if ours.fixed or theirs.fixed or first.count != second.count or any(map(is_integer, dtypes)):
        return None
    limit = 2 * tolerance(reference, port, ours.number, theirs.number)
    if not first.rms or not second.rms or first.constant:
        return None
    for sign in (1.0, -1.0):
        factor = sign * second.rms / first.rms
        low, high = sorted((factor * first.min, factor * first.max))
        extremes = isclose(low, second.min, rel_tol=limit) and isclose(
            high, second.max, rel_tol=limit
        )
        spread = limit * second.rms * first.count**0.5
        if extremes and abs(second.sum - factor * first.sum) <= spread:
            base = Match(ours.number, theirs.number, relation=SAME)
            if isclose(factor, 1, rel_tol=limit):
                return replace(base, detail=_unlike(first, second))
            return replace(base, scale=factor)
    return None


def _unlike(first: Fingerprint, second: Fingerprint) -> str:
    same = any(first.hashes.get(grain) == known for grain, known in second.hashes.items())
    return (
        "the same elements in another order, as of a reshape where a transpose is due"
        if same
        else "some elements differ"
    )


def tolerance(reference: Side, port: Side, ours: int, theirs: int) -> float:
    """Relative error that one or two roundings of the coarser side make."""
    grains = reference.prints[ours].grain, port.prints[theirs].grain
    return max(_TOLERANCE.get(grain, _TOLERANCE["float32"]) for grain in grains)


def name_factor(factor: float) -> str:
    """`0.125 = 1/sqrt(64)` where a factor is such a one, else the number."""
    for sign, text in ((1, ""), (-1, "-")):
        value = factor * sign
        if value <= 0:
            continue
        for square, words in ((1 / value**2, "1/sqrt({})"), (value**2, "sqrt({})")):
            whole = round(square)
            if 2 <= whole <= 1 << 20 and isclose(square, whole, rel_tol=1e-4):
                return f"{factor:.6g} = {text}{words.format(whole)}"
    return f"{factor:.6g}"


def _values(
    reference: Side, port: Side, ours: Unit, theirs: Unit, one: Arrangement
) -> tuple[np.ndarray, np.ndarray]:
    here, there = sampled(one, SAMPLE)
    x = reference.region(ours.number, ours.fixed).reshape(one.before)[here]
    y = port.region(theirs.number, theirs.fixed).reshape(one.shape)[there]
    pair = (x, reference.parameters[ours.number].dtype), (y, port.parameters[theirs.number].dtype)
    first, second = (
        numbers(np.ascontiguousarray(v), dtype).astype(np.float64) for v, dtype in pair
    )
    return first, second


def _explain(
    reference: Side,
    port: Side,
    ours: Unit,
    theirs: Unit,
    one: Arrangement,
    x: np.ndarray,
    y: np.ndarray,
) -> tuple[float, dict[str, Any]] | None:
    """(distance left, fields of the match) of the best explanation."""
    norm = float(np.sqrt(y @ y))
    if not np.isfinite(norm) or norm == 0 or not (x @ x):
        return None
    dtype = port.parameters[theirs.number].dtype
    limit = tolerance(reference, port, ours.number, theirs.number)
    offset = float(np.median(y - x))
    size = np.maximum(np.maximum(np.abs(x), np.abs(y)), abs(offset))
    if (
        isclose(abs(offset), 1, rel_tol=2 * limit)
        and (np.abs(y - x - offset) <= 2 * limit * size).all()
    ):
        return 0.0, {"offset": round(offset)}
    factor = float((x @ y) / (x @ x))
    left = float(np.linalg.norm(y - factor * x)) / norm
    if is_integer(dtype) or dtype.startswith("float8"):
        words = _quantised(reference, port, ours, theirs, one) if left < CLOSE else ""
        return (left, {"detail": words, "certain": True}) if words else None
    if left < limit and not isclose(factor, 1, rel_tol=limit):
        return left, {"scale": factor}
    same = int(np.count_nonzero(x == y))
    if 2 * same > x.size:
        return left, {
            "detail": f"{x.size - same} of {x.size} {'sampled ' if x.size == SAMPLE else ''}elements differ"
        }
    spread = (
        float(np.linalg.norm(x - x.mean())) or 1.0
    )  # norm weights are all near one, and so to each other
    if float(np.linalg.norm(y - x)) < CLOSE * spread:
        bits = _levels(reference, port, ours, theirs, one)
        distance = float(np.linalg.norm(y - x) / np.linalg.norm(x))
        words = f"quantised to {bits} bits and back; " if bits else ""
        return distance, {"detail": f"{words}relative L2 {distance:.2g}"}
    return None


def _quantised(reference: Side, port: Side, ours: Unit, theirs: Unit, one: Arrangement) -> str:
    """`int8, one scale per row`, when scales by row or by column leave no more than rounding."""
    dtype = port.parameters[theirs.number].dtype
    x = (
        reference.numbers(ours.number, ours.fixed)
        .astype(np.float64)
        .reshape(one.before)
        .transpose(one.order)
    )
    y = port.numbers(theirs.number, theirs.fixed).astype(np.float64).reshape(x.shape)
    if x.ndim != 2:
        return dtype
    for axis, words in ((1, "row"), (0, "column")):
        power = (y * y).sum(axis=axis, keepdims=True)
        scale = (x * y).sum(axis=axis, keepdims=True) / np.where(power, power, 1)
        if (
            is_integer(dtype)
            and (np.abs(x - scale * y) <= 0.55 * np.abs(scale) + 1e-12).mean() > 0.999
        ):
            return f"{dtype}, one scale per {words} of the port"
    return dtype


def _levels(reference: Side, port: Side, ours: Unit, theirs: Unit, one: Arrangement) -> int:
    """Bits of a symmetric quantisation by row or column that the port's values went through; 0 for none."""
    y = port.numbers(theirs.number, theirs.fixed).astype(np.float64)
    if y.ndim != 2 or port.prints[theirs.number].grain in COARSE:
        return 0
    del reference, ours, one
    for axis in (1, 0):
        rows = y if axis == 1 else y.T
        rows = rows[: 1 << 6]
        top = np.abs(rows).max(axis=1, keepdims=True)
        for bits in (4, 8):
            steps = rows / np.where(top, top, 1) * (2 ** (bits - 1) - 1)
            if (np.abs(steps - np.round(steps)) < 1e-3).all():
                return bits
    return 0
