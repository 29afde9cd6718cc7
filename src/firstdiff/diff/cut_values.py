"""The reference's values at a cut, in the port's layout, dtype and spelling of masks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from firstdiff.diff.layout import Layout, candidates, identity
from firstdiff.diff.planting import Planting, Tap
from firstdiff.traces.dtypes import unit_roundoff

if TYPE_CHECKING:
    from firstdiff.diff.align import Pair
    from firstdiff.diff.depth import Cut
    from firstdiff.diff.row import Row
    from firstdiff.traces import Trace
    from firstdiff.traces.schema import Key

Values = dict["Key", tuple[np.ndarray, str]]


class CutValues:
    """What to put in where. Layouts are learned from pairs that agree, masks from how the port spells its own."""

    def __init__(self, reference: Trace, cuts: tuple[Cut, ...]) -> None:
        self._reference, self._cuts = reference, cuts
        layers = [number for number, cut in enumerate(cuts) if cut.sides]
        self.first_layer = layers[0] if layers else 0
        """Number of the first cut with side values; 0 when there is none."""
        self.first_sides: tuple[Pair, ...] = cuts[self.first_layer].sides
        """What every layer receives alike, at the first one."""
        self.first_line: tuple[Pair, ...] = cuts[self.first_layer].pairs
        """What the first layer receives from the blocks before it."""
        self._layouts: dict[tuple[object, object], Layout] = {}
        self._sides: dict[int, tuple[np.ndarray, str]] = {}

    def learn(self, rows: Iterable[Row], port: Trace) -> None:
        """Take in the layouts of ``rows`` that agree, and from those of the first layer its side values."""
        checksums = {_checksum(pair): pair for pair in self.first_sides}
        for row in rows:
            if row.pair is None or row.layout is None:
                continue
            if row.verdict.kind == "agrees":
                shapes = row.layout.reference_shape, row.layout.own_shape
                self._layouts.setdefault(shapes, row.layout)
            checksum = _checksum(row.pair)
            if checksum in checksums and checksum not in self._sides:
                tap = Tap(row, row.pair, row.layout)
                value = Planting("port", (tap,), self._reference, port).value(tap)
                if value is not None:
                    self._sides[checksum] = (np.array(value[0]), value[1])

    def at(self, number: int, *, sides: bool) -> Values:
        """Values to go on with from cut ``number``; with ``sides`` also what later layers receive beside the line.

        Integers and masks of the line are left, as they are the model's own inputs; so is what fits no layout.
        """
        values: Values = {}
        for pair in self._cuts[number].pairs:
            value = self._laid(pair)
            if value is not None:
                values[pair.port.key] = value
        later = self._cuts[number:] if sides else ()
        for pair in (pair for cut in later for pair in cut.sides):
            found = self._sides.get(_checksum(pair))
            if found is not None:
                values[pair.port.key] = found
        return values

    def _laid(self, pair: Pair) -> tuple[np.ndarray, str] | None:
        ours, theirs = pair.reference, pair.port
        if not unit_roundoff(ours.dtype) or not unit_roundoff(theirs.dtype):
            return None
        layout = self._layout(ours.shape, theirs.shape)
        if layout is None or layout.kind == "broadcast":
            return None
        value = self._reference.stored(ours).reshape(layout.shape)
        turned = value.transpose(np.argsort(layout.permutation)).reshape(layout.own_shape)
        return np.ascontiguousarray(turned), ours.dtype

    def _layout(self, ours: tuple[int, ...], theirs: tuple[int, ...]) -> Layout | None:
        if (ours, theirs) in self._layouts:
            return self._layouts[ours, theirs]
        if ours == theirs:
            return identity(ours)
        return next(iter(candidates(ours, theirs)), None)


def _checksum(pair: Pair) -> int:
    digest = pair.reference.digest
    return -1 if digest is None else digest.checksum
