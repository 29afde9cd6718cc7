"""Modules of a replay that compute from inputs of their own, because the port keeps them in another convention.

A norm whose scale lies in the weights behind it: what the linear layer is given differs without effect, so nothing is
put in there. Then its result has more than its own rounding, and the local floor, which is that of given inputs, is
too low for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import hypot, sqrt
from typing import TYPE_CHECKING

from firstdiff.diff.local import moved_by
from firstdiff.diff.planting import WITHOUT_EFFECT
from firstdiff.traces.part import origin

if TYPE_CHECKING:
    from firstdiff.diff.local import LocalFloor
    from firstdiff.diff.planting import Tap
    from firstdiff.traces.schema import Activation, Key

_ROUNDINGS = 4
"""Of the inputs, which the other side's model does not share: there once normalised and once scaled, here once; and
of the weights that the scale lies in."""


class OwnInputs:
    """The inputs that were left as they are because they differ without effect."""

    def __init__(self, taps: Sequence[Tap]) -> None:
        inputs = (tap.pair.reference for tap in taps if tap.left == WITHOUT_EFFECT)
        self._inputs = {_call(a): a for a in inputs if a.key.site == "input"}

    def widened(self, floor: LocalFloor, activation: Activation) -> LocalFloor:
        """``floor`` of ``activation``, with what its module's own inputs bring along where they were left.

        Each rounding moves an input by u / sqrt(3) at most, in root mean square, which shows here as the effect of
        moved inputs does (`moved_by`).
        """
        given = self._inputs.get(_call(activation))
        if given is None or activation.key.site == "input":
            return floor
        share = floor.unit * sqrt(_ROUNDINGS / 3) / moved_by(given)
        found, factor = floor.conditioning, hypot(1.0, share)
        moved = replace(
            found, rms=factor * found.rms, rows=factor * found.rows, columns=factor * found.columns
        )
        return replace(floor, conditioning=moved)


def _call(activation: Activation) -> Key:
    """The call of its module."""
    return replace(origin(activation).key, site="input", leaf="")
