"""How much error rounding alone makes at each activation: the free floor, or a named stand-in for it.

D(p) = ||reference run in the port's dtype - golden|| / ||golden|| at activation p, recorded once with the reference.
The floor of p is max(D(p), 0.4 u): one rounding to nearest makes about 0.39 u of relative L2, u the unit roundoff.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from math import sqrt
from typing import TYPE_CHECKING

import numpy as np

from firstdiff.diff.stand_in import CONSTANT, OTHER_CONSTANT, recorded
from firstdiff.traces.dtypes import unit_roundoff

if TYPE_CHECKING:
    from collections.abc import Iterable

    from firstdiff.traces import Trace
    from firstdiff.traces.schema import Activation, Key

ONE_ROUNDING = 0.4
"""Relative L2 of one rounding, in units of u: 1/sqrt(3)/1.47 = 0.39 for mantissas spread evenly over a binade."""
TINY = 64
"""Below so many elements a recorded D(p) may be small by luck: the floor is at least 1 u, and the neighbour's D."""


@dataclass(frozen=True)
class Floor:
    """The rounding error to expect at one activation."""

    relative: float
    """As relative L2."""
    unit: float
    """Unit roundoff u that it rests on."""
    absolute: float = 0.0
    """As an L2 norm, for a reference that is zero, where nothing relative has a meaning; else 0."""
    source: str = "recorded"
    """Where it comes from; `recorded`, or the name of the stand-in."""

    def norm(self, reference_l2: float) -> float:
        """The rounding error to expect, as an L2 norm, of an activation whose norm is ``reference_l2``."""
        return max(self.relative * reference_l2, self.absolute)


def run_dtype(activations: Iterable[Activation]) -> str:
    """The dtype that most floating-point activations of a trace have: what the run computed in.

    Parameters may be kept finer than that. Empty when there is no floating-point activation.
    """
    counts = Counter(a.dtype for a in activations if unit_roundoff(a.dtype) > 0)
    return counts.most_common(1)[0][0] if counts else ""


def coarser(one: str, other: str) -> str:
    """The floating-point dtype with the larger unit roundoff; the other when one is empty."""
    return max((d for d in (one, other) if d), key=unit_roundoff, default="")


class Floors:
    """The floors of one reference for one port."""

    def __init__(
        self,
        activations: tuple[Activation, ...],
        dtype: str,
        table: np.ndarray | None,
        *,
        source: str = "recorded",
        least: float = 0.0,
    ) -> None:
        """``dtype`` is the coarser run's; ``table`` its rows (order, error, scale, count), or None.

        ``source`` says where the table comes from; no drift is below ``least``, in units of u.
        """
        self.dtype = dtype
        self.source = source
        self._least = least
        self.recorded = table is not None and len(table) > 0
        self._activations = activations
        self._places = {a.order: number for number, a in enumerate(activations)}
        self._inputs = {
            (a.key.path, a.key.call, a.key.step): a
            for a in reversed(activations)
            if a.key.site == "input" and unit_roundoff(a.dtype) > 0
        }
        self._rows: dict[int, tuple[float, float]] = {}
        if table is not None:
            self._rows = {int(r["order"]): (float(r["error"]), float(r["scale"])) for r in table}
        self._all_steps = self._largest_of_steps()

    @classmethod
    def of_trace(cls, reference: Trace, dtype: str) -> Floors:
        """The floors of ``reference`` for a comparison in ``dtype``, or what stands in for them."""
        found = recorded(reference, dtype)
        return cls(reference.activations, dtype, found.rows, source=found.source, least=found.least)

    def of(self, reference: Activation, port: Activation, reference_l2: float, valid: int) -> Floor:
        """The floor of a pair whose reference has ``valid`` elements of norm ``reference_l2``.

        u is that of the coarser of the two activations, but never coarser than the run's: a bfloat16 island in a
        float32 port is a loss, a float32 island in a bfloat16 port is none.
        """
        unit = unit_roundoff(coarser(reference.dtype, port.dtype))
        if self.dtype:
            unit = min(unit, unit_roundoff(self.dtype))
        least = unit * (1.0 if valid < TINY else ONE_ROUNDING)
        error, scale = self._rows.get(reference.order, (float("nan"), 0.0))
        absolute = self._absolute(reference, least, valid) if reference_l2 == 0 else 0.0
        if error != error:
            return self._stand_in(unit, absolute)
        if scale == 0:
            return Floor(least, unit, max(error, absolute), self.source)
        drift = max(error / scale, self._least * unit)
        if reference.key.step:
            drift = max(drift, self._all_steps[replace(reference.key, step=0)])
        if valid < TINY:
            drift = max(drift, self._neighbour(reference))
        return Floor(max(drift, least), unit, absolute, self.source)

    def _largest_of_steps(self) -> dict[Key, float]:
        """The largest D of each place over all steps of decoding: one token's alone is small or large by luck."""
        found: dict[Key, float] = {}
        for activation in self._activations:
            error, scale = self._rows.get(activation.order, (0.0, 0.0))
            place = replace(activation.key, step=0)
            found[place] = max(found.get(place, 0.0), error / scale if scale > 0 else 0.0)
        return found

    def _stand_in(self, unit: float, absolute: float) -> Floor:
        multiple = CONSTANT.get(self.dtype, OTHER_CONSTANT)
        name = "no floor recorded" if not self.recorded else "no floor recorded here"
        return Floor(
            multiple * unit, unit, absolute, f"{name}: {multiple:.0f} u stand-in for {self.dtype}"
        )

    def _absolute(self, reference: Activation, least: float, valid: int) -> float:
        """One rounding of what the module was given, or of what came before it."""
        key = reference.key
        given = self._inputs.get((key.path, key.call, key.step)) if key.site == "output" else None
        source = given or self._before(reference)
        rms = source.digest.rms if source is not None and source.digest is not None else 0.0
        return least * rms * sqrt(valid)

    def _before(self, reference: Activation) -> Activation | None:
        """The last floating-point activation before ``reference`` that is not zero."""
        for activation in reversed(self._activations[: self._places.get(reference.order, 0)]):
            if (
                unit_roundoff(activation.dtype) > 0
                and activation.digest is not None
                and activation.digest.rms > 0
            ):
                return activation
        return None

    def _neighbour(self, reference: Activation) -> float:
        """D of the last activation before ``reference`` that is not tiny; 0 when there is none."""
        for activation in reversed(self._activations[: self._places.get(reference.order, 0)]):
            error, scale = self._rows.get(activation.order, (0.0, 0.0))
            if scale > 0 and np.prod(activation.shape) >= TINY:
                return error / scale
        return 0.0
