"""Values of one trace made ready to be forced into the model of the other: its places, layouts and masks.

Pure arrays: who forces them, and how, is the tracer's business. Works in both directions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING, Literal

import numpy as np

from firstdiff.diff.layout import Layout, broadcast, candidates, identity
from firstdiff.diff.masks import is_mask, truth
from firstdiff.diff.measure import Side
from firstdiff.traces.dtypes import unit_roundoff, widen
from firstdiff.traces.part import origin, put

if TYPE_CHECKING:
    from firstdiff.diff.align import Pair
    from firstdiff.diff.row import Row
    from firstdiff.traces import Trace
    from firstdiff.traces.schema import Activation, Key

Direction = Literal["port", "reference"]
"""Whose computation the values go into: `port` takes the reference's, `reference` the port's."""


WITHOUT_EFFECT = "it differs without effect"
"""Why a value is left that the port keeps in another convention."""


@dataclass(frozen=True)
class Tap:
    """One aligned pair of a replay."""

    row: Row
    """What the free comparison found."""
    pair: Pair
    """Its two activations."""
    layout: Layout
    """How the port's elements lie on the reference's."""
    left: str = ""
    """Why no value is forced here; empty when one is."""


@dataclass(frozen=True)
class Planting:
    """Where values go, and which."""

    direction: Direction
    """Whose computation they go into."""
    taps: tuple[Tap, ...]
    """Every pair whose layout is known, in the reference's order."""
    reference: Trace
    """The reference's trace."""
    port: Trace
    """The port's trace."""

    def keys(self) -> dict[Key, Tap]:
        """The taps that get a value, by the key in the model that gets it; of the parts of one tensor, the last."""
        return {self.taker(tap): tap for tap in self.taps if not tap.left}

    def taker(self, tap: Tap) -> Key:
        """Key of ``tap`` in the model that gets values; of a part, that of the tensor it was cut from."""
        return origin(self._takes(tap)).key

    def _takes(self, tap: Tap) -> Activation:
        return tap.pair.port if self.direction == "port" else tap.pair.reference

    def value(self, tap: Tap) -> tuple[np.ndarray, str] | None:
        """(storage array, logical dtype) to force at ``tap``, in the taker's layout; None where it has none.

        A tensor that takes parts is put together from them; what no part fills keeps the taker's own values, of its
        free run, and where their dtype is another one nothing is forced.
        """
        whole = origin(self._takes(tap))
        if whole is self._takes(tap):
            return self._own(tap)
        parts = [other for other in self.taps if origin(self._takes(other)) is whole]
        found = [(self._takes(other), self._own(other)) for other in parts if not other.left]
        values = [(part, *value) for part, value in found if value is not None]
        dtypes = {dtype for *_, dtype in values}
        filled = sum(prod(part.shape) for part, *_ in values) == prod(whole.shape)
        if len(dtypes) != 1 or not (filled or dtypes == {whole.dtype}):
            return None
        taker = self.port if self.direction == "port" else self.reference
        made = np.empty(whole.shape, values[0][1].dtype) if filled else taker.stored(whole).copy()
        for part, value, _ in values:
            put(made, part, value)
        return made, dtypes.pop()

    def _own(self, tap: Tap) -> tuple[np.ndarray, str] | None:
        ours = Side(self.reference.stored(tap.pair.reference), tap.pair.reference.dtype)
        theirs = Side(self.port.stored(tap.pair.port), tap.pair.port.dtype)
        giver, taker = (ours, theirs) if self.direction == "port" else (theirs, ours)
        if is_mask(tap.pair.reference) and is_mask(tap.pair.port):
            mask = _as_mask(giver, taker)
            if mask is not None:
                giver = mask
        laid = _laid(giver.stored, tap, self.direction)
        return None if laid is None else (np.ascontiguousarray(laid), giver.dtype)

    def values(self) -> Iterator[tuple[Key, np.ndarray]]:
        """Every value to force as numbers (bfloat16 widened), by key."""
        for key, tap in self.keys().items():
            found = self.value(tap)
            if found is not None:
                yield key, widen(*found)


def planting(direction: Direction, rows: Sequence[Row], reference: Trace, port: Trace) -> Planting:
    """What to force for the paired ``rows`` of a free comparison.

    Left as they are: the model's own inputs and results, values without elements, and floating-point values
    that differ without effect (the port may keep them in another convention, and what follows reads that).
    """
    diverges = any(row.diverges for row in rows)
    rows = [replace(row, healed=_healed(row, diverges)) for row in rows]
    known = _known_layouts(rows)
    taps = []
    for row in rows:
        if row.pair is None:
            continue
        layout = _layout(row, row.pair, known)
        if layout is not None:
            taps.append(Tap(row, row.pair, layout, _reason(row, row.pair)))
    return Planting(direction, tuple(taps), reference, port)


def _healed(row: Row, diverges: bool) -> str:
    """The module that proves ``row`` harmless. A mere reader (it may look at the dtype alone) is no proof while
    something else diverges; a module around the value is."""
    path, healer = row.activation.key.path, row.healed
    around = healer == "the model" or path == healer or path.startswith(f"{healer}.")
    return healer if around or not diverges else ""


def _reason(row: Row, pair: Pair) -> str:
    floats = [unit_roundoff(a.dtype) > 0 for a in (pair.reference, pair.port)]
    if not pair.reference.key.path:
        return "the model's own input or result"
    if pair.reference.place is None or pair.port.place is None:
        return "no elements were kept"
    if row.verdict.kind == "dtype":
        return "an integer on one side, a float on the other"
    if row.healed and all(floats) and not is_mask(pair.reference):
        return WITHOUT_EFFECT
    return ""


def _known_layouts(rows: Sequence[Row]) -> dict[tuple[object, object], Layout]:
    """The layout that most agreeing pairs of two shapes have."""
    counts: dict[tuple[object, object], Counter[Layout]] = {}
    for row in rows:
        if row.layout is not None and row.verdict.kind == "agrees":
            shapes = row.layout.reference_shape, row.layout.own_shape
            counts.setdefault(shapes, Counter())[row.layout] += 1
    return {shapes: found.most_common(1)[0][0] for shapes, found in counts.items()}


def _layout(row: Row, pair: Pair, known: dict[tuple[object, object], Layout]) -> Layout | None:
    """The layout of a pair: its own when it agrees, else what its shapes mean elsewhere, else a guess."""
    ours, theirs = pair.reference.shape, pair.port.shape
    if row.layout is not None and row.verdict.kind == "agrees":
        return row.layout
    if ours == theirs:
        return identity(ours)
    if (ours, theirs) in known:
        return known[ours, theirs]
    fitting = candidates(ours, theirs)
    return row.layout or (fitting[0] if fitting else broadcast(ours, theirs))


def _laid(value: np.ndarray, tap: Tap, direction: Direction) -> np.ndarray | None:
    """``value`` of the giver in the taker's layout; None when the taker's shape cannot hold it."""
    layout, pair = tap.layout, tap.pair
    view = layout.port(value) if direction == "reference" else layout.reference(value)
    if layout.kind == "broadcast":
        return once(view, (pair.reference if direction == "reference" else pair.port).shape)
    if direction == "reference":
        return view.reshape(pair.reference.shape)
    return view.transpose(np.argsort(layout.permutation)).reshape(pair.port.shape)


def once(value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray | None:
    """``value`` in ``shape``, without its repetitions; None where they are no repetitions."""
    padded = (1,) * (value.ndim - len(shape)) + shape
    kept = value[tuple(slice(0, 1) if n == 1 else slice(None) for n in padded)]
    if not np.array_equal(np.broadcast_to(kept, value.shape), value):
        return None
    return kept.reshape(shape)


def _as_mask(giver: Side, taker: Side) -> Side | None:
    """The giver's mask spelled as the taker spells its own: booleans, 0 and 1, or 0 and hugely negative."""
    seen, own = truth(giver), truth(taker)
    if seen is None or own is None:
        return None
    if not unit_roundoff(taker.dtype):
        kind = np.bool_ if taker.dtype == "bool" else taker.stored.dtype
        return Side(seen.astype(kind), taker.dtype)
    numbers = widen(taker.stored, taker.dtype)
    if numbers.size and numbers.max() == 1:
        return Side(seen.astype(np.float32), "float32")
    hidden = numbers[~own]
    lowest = hidden[0] if hidden.size else np.finfo(np.float32).min
    return Side(np.where(seen, 0, lowest).astype(np.float32), "float32")
