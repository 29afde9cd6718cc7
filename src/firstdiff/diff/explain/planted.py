"""The place of one tap of a replay, whose inputs are known to the bit: both sides' numbers there, and what went in.

Apart from `scene`, whose two runs computed freely. A port replay gave the port the reference's values; a reference
replay gave the reference the port's, so that what it computed of them, in float64, is the right value.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from firstdiff.diff.explain.scene import Scene
from firstdiff.diff.floor import Floors, run_dtype
from firstdiff.diff.masks import truth
from firstdiff.diff.measure import Side
from firstdiff.diff.planting import once
from firstdiff.traces.dtypes import widen
from firstdiff.traces.part import on, origin

if TYPE_CHECKING:
    from collections.abc import Callable

    from firstdiff.diff.planting import Planting, Tap
    from firstdiff.diff.row import Row
    from firstdiff.traces import Trace
    from firstdiff.traces.schema import Activation, Key


@dataclass(frozen=True)
class Replayed:
    """The traces of a replay, read by the reference's free activations."""

    plan: Planting
    """What was put where."""
    truth: Trace
    """The reference's values: its own trace in a port replay, the forced float64 run in a reference replay."""
    own: Trace
    """The port's values: what it made of the reference's in a port replay, its own trace in a reference replay."""
    planted: Callable[[Key], bool]
    """Whether a value was put in at a key of the model that took them."""

    @cached_property
    def taps(self) -> dict[int, Tap]:
        """By order of the reference's activation."""
        return {tap.pair.reference.order: tap for tap in self.plan.taps}

    @cached_property
    def _ours(self) -> dict[Key, Activation]:
        return {a.key: a for a in self.truth.activations}

    @cached_property
    def _theirs(self) -> dict[Key, Activation]:
        return {a.key: a for a in self.own.activations}

    def right(self, activation: Activation) -> np.ndarray:
        """What the reference made at its ``activation``."""
        return self.truth.values(_again(self._ours, activation))

    def made(self, tap: Tap) -> np.ndarray:
        """What the port made at ``tap``, in the reference's layout; KeyError where that cannot hold it."""
        laid = tap.layout.port(self.own.values(_again(self._theirs, tap.pair.port)))
        shape = tap.pair.reference.shape
        found = once(laid, shape) if tap.layout.kind == "broadcast" else laid.reshape(shape)
        if found is None:
            raise KeyError(tap.pair.port.key)
        return found

    def forced(self, activation: Activation) -> tuple[np.ndarray, str] | None:
        """(storage array, dtype) that went on in the reference in place of its own ``activation``; None for its own."""
        tap = self.taps.get(activation.order)
        if self.plan.direction == "port" or tap is None or not self._is_planted(tap):
            return None
        return self.plan.value(tap)

    def reference_had(self, activation: Activation) -> np.ndarray:
        """What the reference computed on with at its ``activation``."""
        found = self.forced(activation)
        return self.right(activation) if found is None else widen(*found)

    def port_had(self, activation: Activation) -> np.ndarray:
        """What the port computed on with at the reference's ``activation``, in its layout."""
        tap = self.taps.get(activation.order)
        if tap is None or self._is_planted(tap):
            return self.reference_had(activation)
        return self.made(tap)

    def _is_planted(self, tap: Tap) -> bool:
        return not tap.left and self.planted(self.plan.taker(tap))


@dataclass(frozen=True)
class PlantedScene(Scene):
    """A scene of a replay. ``reference`` and ``port`` are the traces of the free runs, ``row`` has a floor."""

    replayed: Replayed | None = field(default=None, kw_only=True)
    """What was computed, and on what; never None."""

    @property
    def _replayed(self) -> Replayed:
        assert self.replayed is not None, "a scene of a replay"
        return self.replayed

    @cached_property
    def right(self) -> np.ndarray:
        """The reference's numbers, float64."""
        return np.asarray(self._replayed.right(self.target), np.float64)

    @cached_property
    def wrong(self) -> np.ndarray:
        """The port's numbers in the reference's layout, float64."""
        return self.ported(self.row)

    def recorded(self, activation: Activation) -> np.ndarray:
        """What the reference computed on with; in the call that returned the target what it made."""
        made = replace(activation.key, leaf="") == replace(self.target.key, leaf="")
        if made and (self.target.key.site == "output" or activation.order == self.target.order):
            return np.asarray(self._replayed.right(activation), np.float64)
        return np.asarray(self._replayed.reference_had(activation), np.float64)

    def made(self, output: Activation) -> np.ndarray:
        """What the reference computed of what went in."""
        return np.asarray(self._replayed.right(output), np.float64)

    def given(self, activation: Activation) -> np.ndarray:
        """What the port computed on with."""
        return np.asarray(self._replayed.port_had(activation), np.float64)

    def ported(self, row: Row) -> np.ndarray:
        """What the port made at the place of ``row``, in the reference's layout, float64."""
        tap = self._replayed.taps[row.activation.order]
        return np.asarray(self._replayed.made(tap), np.float64)

    def visible(self, activation: Activation) -> np.ndarray | None:
        """The mask that the reference used, as bool; None when it is no mask."""
        found = self._replayed.forced(activation)
        return super().visible(activation) if found is None else truth(Side(*found))

    @cached_property
    def _own_floors(self) -> Floors:
        dtype = run_dtype(self.reference.activations)
        if self._replayed.plan.direction == "port":
            return Floors.of_trace(self.reference, dtype)
        rows = [(a.order, 0.0, 1.0) for a in self.reference.activations]
        table = np.array(rows, [("order", "<i8"), ("error", "<f8"), ("scale", "<f8")])
        return Floors(self.reference.activations, dtype, table)  # exact: one rounding at most


def _again(recorded: dict[Key, Activation], activation: Activation) -> Activation:
    """``activation`` as the replay recorded it; KeyError where it did not."""
    found = on(recorded[origin(activation).key], activation)
    if found is None:
        raise KeyError(activation.key)
    return found
