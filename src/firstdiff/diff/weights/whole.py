"""Whole parameters, and slices of stacked ones, that hold the same set of values on both sides."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from firstdiff.diff.weights.arrangement import (
    Arrangement,
    agrees,
    arrangements,
    laid,
    sampled,
    solid,
    solid_fibres,
)
from firstdiff.diff.weights.grain import GRAINS, numbers, round_to
from firstdiff.diff.weights.match import SAME, Fixed, Match, Side, fibres_of, without
from firstdiff.diff.weights.pattern import recognise

if TYPE_CHECKING:
    from firstdiff.diff.weights.fingerprint import Fingerprint

FULL = 1 << 16
"""Up to so many elements all are compared; of larger parameters, whose fibres agree in order, `SAMPLE`."""
SAMPLE = 512


@dataclass(frozen=True)
class Unit:
    """A parameter, or one slice of it."""

    number: int
    """Of the parameter."""
    fixed: Fixed = ()
    """The slice."""


Units = dict[tuple[str, int, int], list[Unit]]
"""Units by grain, number of elements, hash."""


def same_values(reference: Side, port: Side) -> dict[Unit, list[Unit]]:
    """Port units by reference unit, where both hold the same set of values; each reference unit at its finest grain."""
    ours, theirs = _wholes(reference), _wholes(port)
    found: dict[Unit, list[Unit]] = {}
    for one, other in (
        (ours, _merged(theirs, _slices_among(port, ours))),
        (_merged(ours, _slices_among(reference, theirs)), theirs),
    ):
        for key in sorted(one.keys() & other.keys(), key=lambda k: GRAINS.index(k[0])):
            for unit in one[key]:
                known = found.setdefault(unit, [])
                known.extend(match for match in other[key] if match not in known)
    return found


def _wholes(side: Side) -> Units:
    """Parameters by what identifies their set of values. Constant ones are left out: values say nothing about them."""
    found: Units = defaultdict(list)
    for number, (parameter, known) in enumerate(zip(side.parameters, side.prints, strict=True)):
        for grain, whole in known.hashes.items() if not known.constant else ():
            found[grain, parameter.size, whole].append(Unit(number))
    return found


def _slices_among(side: Side, wanted: Units) -> Units:
    """Slices of the parameters of ``side`` that have the values of one of ``wanted``."""
    hashes: dict[tuple[str, int], list[int]] = defaultdict(list)
    for grain, size, value in wanted:
        hashes[grain, size].append(value)
    arrays = {key: np.array(values, dtype=np.uint64) for key, values in hashes.items()}
    found: Units = defaultdict(list)
    for number, (parameter, known) in enumerate(zip(side.parameters, side.prints, strict=True)):
        for grain, axis in product(known.hashes, range(len(parameter.shape))):
            n = parameter.shape[axis]
            size = parameter.size // n if n else 0
            among = arrays.get((grain, size))
            if n < 2 or size < 2 or among is None or known.constant:
                continue
            values = known.slices(grain, axis)
            for index in () if values is None else np.flatnonzero(np.isin(values, among)):
                assert values is not None
                found[grain, size, int(values[index])].append(Unit(number, ((axis, int(index)),)))
    return found


def _merged(one: Units, other: Units) -> Units:
    return {key: [*one.get(key, ()), *other.get(key, ())] for key in one.keys() | other.keys()}


def arrange(reference: Side, port: Side, ours: Unit, theirs: Unit) -> Match | None:
    """The match of two units with the same set of values; None when they turn out to differ."""
    first, second = reference.parameters[ours.number], port.parameters[theirs.number]
    grain = common_grain(reference, port, ours, theirs)
    if grain is None:
        return None
    here, there = without(first.shape, ours.fixed), without(second.shape, theirs.fixed)
    every = arrangements(here, there)
    base = Match(
        ours.number,
        theirs.number,
        reference_fixed=ours.fixed,
        port_fixed=theirs.fixed,
        grain=grain,
    )
    fibres = (
        solid_fibres(
            fibres_of(reference.prints[ours.number], grain, len(first.shape), ours.fixed), here
        ),
        solid_fibres(
            fibres_of(port.prints[theirs.number], grain, len(second.shape), theirs.fixed), there
        ),
    )
    for one in every:
        verdict = agrees(one, *fibres)
        if verdict is not False and _confirmed(reference, port, ours, theirs, one, grain, verdict):
            others = tuple(a.words for a in every if a.order != one.order)
            return replace(
                base, relation=one.words, turn=one.turn, forced=not others, others=others
            )
    if not (fibres[0] and fibres[1]) and not (
        reference.loadable(ours.number) and port.loadable(theirs.number)
    ):
        return replace(base, relation=SAME)  # a digest alone does not tell how they lie
    return _reordered(reference, port, base, here, there)


def common_grain(reference: Side, port: Side, ours: Unit, theirs: Unit) -> str | None:
    """The finest grain at which both units have the same set of values."""
    first, second = reference.prints[ours.number], port.prints[theirs.number]
    for grain in GRAINS:
        pair = [_hash_of(p, u, grain) for p, u in ((first, ours), (second, theirs))]
        if pair[0] is not None and pair[0] == pair[1]:
            return grain
    return None


def _hash_of(known: Fingerprint, unit: Unit, grain: str) -> int | None:
    if not unit.fixed:
        return known.hashes.get(grain)
    ((axis, index),) = unit.fixed
    values = known.slices(grain, axis)
    return None if values is None else int(values[index]) % (1 << 64)


def _confirmed(
    reference: Side,
    port: Side,
    ours: Unit,
    theirs: Unit,
    one: Arrangement,
    grain: str,
    by_hash: bool | None,
) -> bool:
    """Whether elements, all or a sample, lie as ``one`` says; the hashes decide where there are no elements."""
    if not (reference.loadable(ours.number) and port.loadable(theirs.number)):
        return by_hash is True or (by_hash is None and len(one.before) <= 1)
    dtypes = reference.parameters[ours.number].dtype, port.parameters[theirs.number].dtype
    first = reference.region(ours.number, ours.fixed).reshape(one.before)
    second = port.region(theirs.number, theirs.fixed).reshape(one.shape)
    if first.size <= FULL or not by_hash:
        return equal_at(laid(one, first), second, dtypes, grain)
    here, there = sampled(one, SAMPLE)
    return equal_at(first[here], second[there], dtypes, grain)


def equal_at(first: np.ndarray, second: np.ndarray, dtypes: tuple[str, str], grain: str) -> bool:
    """Whether two storage arrays hold equal numbers at ``grain``."""
    values = [
        round_to(numbers(np.ascontiguousarray(a), dtype), grain)
        for a, dtype in zip((first, second), dtypes, strict=True)
    ]
    return np.array_equal(values[0], values[1], equal_nan=grain != "integer")


def _reordered(
    reference: Side, port: Side, base: Match, here: tuple[int, ...], there: tuple[int, ...]
) -> Match | None:
    """The same values in another order: reshaped where a transpose was due, or a vector that is permuted."""
    if not (reference.loadable(base.reference) and port.loadable(base.port)):
        if len(solid(here)) > 1:
            return None  # looked up fibre by fibre, which tells the order
        return replace(
            base,
            relation=SAME,
            order="in an order that digests do not tell",
            order_kind="untold",
        )
    ours = round_to(reference.numbers(base.reference, base.reference_fixed), base.grain)
    theirs = round_to(port.numbers(base.port, base.port_fixed), base.grain)
    if np.array_equal(ours.reshape(-1), theirs.reshape(-1), equal_nan=ours.dtype.kind == "f"):
        shape = ", ".join(map(str, there))
        return replace(
            base,
            relation=f"reshaped to ({shape})",
            turn="kept",
            forced=False,
            others=("transposed",),
        )
    if len(solid(here)) == 1:
        places = _places(ours.reshape(-1), theirs.reshape(-1))
        if places is None:
            return None
        pattern = recognise(places, theirs.size, solid(there))
        return replace(base, order=pattern.words, order_kind=pattern.kind)
    return None


def _places(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray | None:
    """Where each of ``ours`` lies in ``theirs``, equal ones in order; None when they are not the same values."""
    first, second = np.argsort(ours, kind="stable"), np.argsort(theirs, kind="stable")
    if not np.array_equal(ours[first], theirs[second]):
        return None
    places = np.empty(ours.size, dtype=np.int64)
    places[first] = second
    return places
