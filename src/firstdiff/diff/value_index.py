"""The activations of one trace by value: which of them equal these numbers, and which one is nearest.

Fingerprints exclude what no layout can make equal, elements decide about the rest. Equality is of values, never of
names or order: what the values alone cannot tell apart is said to be ambiguous.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from math import inf
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from firstdiff.diff.fingerprint import Fingerprint, fingerprint, of_digest
from firstdiff.diff.laying import Laid, lay
from firstdiff.diff.layout import candidates
from firstdiff.diff.likeness import Likeness, where_equal
from firstdiff.diff.measure import Side
from firstdiff.traces.digest import digest
from firstdiff.traces.dtypes import unit_roundoff
from firstdiff.traces.padding import padding_mask, valid_elements

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from firstdiff.traces import Trace
    from firstdiff.traces.schema import Activation

Sort = Literal["float", "integer", "bool"]

_SKETCH_SLACK = 1.5
"""The distance of two sketches is 0.67 to 1.15 of the true one (measured): so much it may be off."""


@dataclass(frozen=True)
class Value:
    """One value of a trace, with every activation that holds it, in whatever layout."""

    activations: tuple[Activation, ...]
    """In execution order; never empty."""
    fingerprint: Fingerprint
    """Of all elements."""
    valid: Fingerprint | None = None
    """Of the elements of real tokens, where there is padding and the shape tells the tokens."""

    @property
    def first(self) -> Activation:
        """The first activation that holds it."""
        return self.activations[0]

    @cached_property
    def producers(self) -> tuple[Activation, ...]:
        """The results that made it: not those of a module that was given it, nor of one around another that made it.

        Two of them are two computations with equal results, which values cannot tell apart.
        """
        given = {_call(a) for a in self.activations if a.key.site == "input"}
        made: list[Activation] = []
        for a in self.activations:
            inner = any(_inside(b, a) for b in made)
            if a.key.site == "output" and _call(a) not in given and not inner:
                made.append(a)
        return tuple(made)


@dataclass(frozen=True)
class Match:
    """A value that equals what was asked for."""

    value: Value
    """The value."""
    laid: Laid
    """How its first activation lies on the numbers that were asked for, and the error."""

    @property
    def activations(self) -> tuple[Activation, ...]:
        """The activations that hold it, in execution order."""
        return self.value.activations


@dataclass(frozen=True)
class Equals:
    """What equals some numbers up to a layout."""

    matches: tuple[Match, ...]
    """The smallest error first; usually none or one."""
    ambiguous: str = ""
    """Why the values do not tell which activation it is; empty when they do, or when nothing matches."""

    @property
    def only(self) -> Match | None:
        """The match, when there is exactly one and it is not ambiguous."""
        return self.matches[0] if len(self.matches) == 1 and not self.ambiguous else None


@dataclass(frozen=True)
class Nearest:
    """The activation that some numbers resemble most."""

    value: Value
    """Its value."""
    laid: Laid
    """The best layout of its first activation, and the error."""
    likeness: Likeness
    """Where the two agree all the same."""

    @property
    def activation(self) -> Activation:
        """The first result that holds it, else the first activation that does."""
        return (self.value.producers or self.value.activations)[0]


class ValueIndex:
    """The activations of one trace, by value. Fingerprints are made when the first question of their size is asked."""

    def __init__(
        self,
        trace: Trace,
        activations: Iterable[Activation] | None = None,
        *,
        padding: np.ndarray | None = None,
    ) -> None:
        """``activations`` limits the search; ``padding`` is bool[batch, tokens], by default that of the trace."""
        self.trace = trace
        if padding is None:
            padding = padding_mask({name: trace.input_values(name) for name in trace.inputs})
        self.padding = padding
        chosen = trace.activations if activations is None else activations
        self._waiting: dict[tuple[Sort, int], list[Activation]] = defaultdict(list)
        for activation in chosen:
            self._waiting[sort_of(activation.dtype), _size(activation.shape)].append(activation)
        self._made: dict[tuple[Sort, int], tuple[Value, ...]] = {}

    def values_of(self, sort: Sort, size: int) -> tuple[Value, ...]:
        """The values of ``size`` elements of one sort, by the execution order of their first activation."""
        if (sort, size) not in self._made:
            self._made[sort, size] = tuple(_grouped(self, self._waiting.get((sort, size), ())))
        return self._made[sort, size]

    def values_like(self, activation: Activation) -> tuple[Value, ...]:
        """The values of the size and sort of ``activation``, which may be of another trace."""
        return self.values_of(sort_of(activation.dtype), _size(activation.shape))

    def all_values(self) -> tuple[Value, ...]:
        """Every value, by the execution order of its first activation."""
        made = [value for sort in self._waiting for value in self.values_of(*sort)]
        return tuple(sorted(made, key=lambda value: value.first.order))

    def equals(self, values: np.ndarray, tolerance: float) -> Equals:
        """The values v with ||v - values|| <= ``tolerance`` ||values|| in some layout, over real tokens.

        ``values`` are numbers (`Trace.values`) in their own shape. Integers and booleans must be equal. In a
        digest-only trace only what lies in the same flat order is found, by its sketch.
        """
        asked = Side(values, str(values.dtype))
        limit = tolerance if unit_roundoff(asked.dtype) else 0.0
        prints = self._prints(values)
        found = []
        for value in self.values_of(sort_of(asked.dtype), values.size):
            if _excluded(prints, (value.fingerprint, value.valid), limit):
                continue
            laid = self.laid(asked, value.first, limit)
            if laid is not None and laid.error <= limit:
                found.append(Match(value, laid))
        matches = tuple(sorted(found, key=lambda match: match.laid.error))
        return Equals(matches, _ambiguity(prints[0], matches))

    def nearest(self, values: np.ndarray, tolerance: float = 0.0) -> Nearest | None:
        """The value with the smallest error in its best layout; None when nothing has this size and sort.

        ``tolerance`` is the relative L2 within which a slice of the two counts as equal.
        """
        asked = Side(values, str(values.dtype))
        prints = self._prints(values)
        there = [
            (_distance(prints, (value.fingerprint, value.valid)), value)
            for value in self.values_of(sort_of(asked.dtype), values.size)
        ]
        best: tuple[float, Value, Laid] | None = None
        norm = max(prints[0].norm, 1e-300)
        for least, value in sorted(there, key=lambda item: (item[0], item[1].first.order)):
            if best is not None and least > best[0] * norm:
                break
            laid = self.laid(asked, value.first, tolerance)
            if laid is not None and (best is None or laid.error < best[0]):
                best = (laid.error, value, laid)
        if best is None:
            return None
        _, value, laid = best
        if value.first.place is None:
            return Nearest(value, laid, Likeness(""))
        other = self.trace.values(value.first)
        likeness = where_equal(values, other, laid.layout, tolerance, self.padding, self.grid)
        return Nearest(value, laid, likeness)

    @cached_property
    def grid(self) -> tuple[int, int] | None:
        """(batch, tokens) of the model's inputs; None when no input shows it."""
        if self.padding is not None:
            return self.padding.shape[0], self.padding.shape[1]
        for name in ("input_ids", "tokens", *self.trace.inputs):
            found = self.trace.inputs.get(name)
            if found is not None and len(found.shape) == 2:
                return found.shape[0], found.shape[1]
        return None

    def laid(self, asked: Side, activation: Activation, tolerance: float) -> Laid | None:
        """``activation`` laid on the numbers ``asked``; None when no layout fits or its elements were not kept."""
        if activation.place is None:
            return _sketched(asked.stored, activation)
        other = Side(self.trace.stored(activation), activation.dtype)
        return lay(asked, other, tolerance, self.padding)

    def _prints(self, values: np.ndarray) -> tuple[Fingerprint, Fingerprint | None]:
        valid = valid_elements(values.shape, self.padding)
        return fingerprint(values), None if valid is None else fingerprint(values, valid)


def _grouped(index: ValueIndex, activations: Sequence[Activation]) -> list[Value]:
    """``activations`` of one size as values: those with equal elements, bit for bit, in whatever layout, are one."""
    by_bytes: dict[Any, list[Activation]] = defaultdict(list)
    for a in activations:
        own = (a.dtype, a.shape, a.digest.checksum) if a.digest is not None else a.order
        by_bytes[own].append(a)
    groups: list[tuple[Fingerprint, list[Activation]]] = []
    for found in by_bytes.values():
        made = _print_of(index.trace, found[0])
        home = next(
            (held for p, held in groups if p.same(made) and _equal(index, held, found)), None
        )
        if home is None:
            groups.append((made, found))
        else:
            home += found
    return sorted(
        (_value(index, made, held) for made, held in groups), key=lambda value: value.first.order
    )


def _value(index: ValueIndex, made: Fingerprint, held: list[Activation]) -> Value:
    ordered = tuple(sorted(held, key=lambda a: a.order))
    valid = None
    for a in ordered:
        mask = valid_elements(a.shape, index.padding)
        if mask is not None and a.place is not None:
            valid = fingerprint(index.trace.values(a), mask)
            break
    return Value(ordered, made, valid)


def _equal(index: ValueIndex, one: list[Activation], other: list[Activation]) -> bool:
    """Whether two activations of one trace hold the very same elements in some layout."""
    if not candidates(one[0].shape, other[0].shape):
        return False
    sides = [Side(index.trace.stored(held[0]), held[0].dtype) for held in (one, other)]
    laid = lay(sides[0], sides[1], 0.0)
    return laid is not None and laid.exact


def _print_of(trace: Trace, activation: Activation) -> Fingerprint:
    if activation.place is not None:
        return fingerprint(trace.values(activation))
    if activation.digest is not None:
        return of_digest(activation.digest)
    return Fingerprint(_size(activation.shape), (-1, -1, -1), 0.0, 0.0, 0.0, 0.0)


def _sketched(values: np.ndarray, activation: Activation) -> Laid | None:
    """The error by sketches, of numbers that lie in the same flat order; an upper estimate."""
    fitting = candidates(values.shape, activation.shape)
    if not fitting or activation.digest is None or activation.digest.sketch is None:
        return None
    own = digest(np.ascontiguousarray(values), str(values.dtype))
    norm = own.rms * np.sqrt(own.count)
    error = float(np.linalg.norm(np.asarray(activation.digest.sketch) - np.asarray(own.sketch)))
    relative = 0.0 if not error else _SKETCH_SLACK * error / norm if norm else inf
    return Laid(fitting[0], float(relative), estimated=True)


def _excluded(
    ours: tuple[Fingerprint, Fingerprint | None],
    theirs: tuple[Fingerprint, Fingerprint | None],
    tolerance: float,
) -> bool:
    """Whether no layout makes the two equal, over real tokens or over all of them.

    Where the tokens of one side alone are known its padding cannot be left out, so that nothing is excluded.
    """
    if (ours[1] is None) != (theirs[1] is None):
        return False
    if ours[1] is not None and theirs[1] is not None and not ours[1].excludes(theirs[1], tolerance):
        return False
    return ours[0].excludes(theirs[0], tolerance)


def _distance(
    ours: tuple[Fingerprint, Fingerprint | None], theirs: tuple[Fingerprint, Fingerprint | None]
) -> float:
    """A lower bound of the distance over real tokens; 0 where padding cannot be told on one side."""
    if ours[1] is not None and theirs[1] is not None:
        return min(ours[1].distance(theirs[1]), ours[0].distance(theirs[0]))
    return 0.0 if ours[1] is not None or theirs[1] is not None else ours[0].distance(theirs[0])


def _ambiguity(asked: Fingerprint, matches: Sequence[Match]) -> str:
    if not matches:
        return ""
    if asked.constant:
        return "all its elements are equal"
    if len(matches) > 1:
        return f"{len(matches)} different values lie within the tolerance"
    made = len(matches[0].value.producers)
    return f"it was computed {made} times" if made > 1 else ""


def _call(activation: Activation) -> tuple[str, str, int, int]:
    key = activation.key
    return key.path, key.method, key.call, key.step


def _inside(inner: Activation, outer: Activation) -> bool:
    """Whether ``inner`` belongs to a module within that of ``outer``, in the same step."""
    path = outer.key.path
    within = inner.key.path.startswith(f"{path}.") if path else bool(inner.key.path)
    return within and inner.key.step == outer.key.step


def sort_of(dtype: str) -> Sort:
    """Activations of different sorts never equal each other."""
    if unit_roundoff(dtype) > 0:
        return "float"
    return "bool" if dtype == "bool" else "integer"


def _size(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape, dtype=np.int64))
