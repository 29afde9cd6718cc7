"""What lies below the local floors of a replay, known by its pattern. Apart from the faults, which are above them.

Every tap is on inputs that are known to the bit, so each is judged by itself, whatever else is wrong; except where a
value that differs without effect was left in its place (queries that hold the attention's scale).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from firstdiff.diff.explain.faint import chosen, given_wrong, suspicion_at
from firstdiff.diff.explain.planted import PlantedScene, Replayed
from firstdiff.diff.floor import ONE_ROUNDING, Floor, run_dtype
from firstdiff.diff.hidden import is_narrow
from firstdiff.traces.dtypes import unit_roundoff

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from firstdiff.diff.explain.faint import Suspicion
    from firstdiff.diff.replayed import ReplayRow
    from firstdiff.diff.row import Row

TRIPS = (ArithmeticError, AssertionError, LookupError, MemoryError, TypeError, ValueError)
"""What a hypothesis may raise that trips over a model it was not made for."""


def find_suspicions(
    replayed: Replayed, rows: Sequence[ReplayRow], padding: np.ndarray | None = None
) -> tuple[Suspicion, ...]:
    """The agreeing taps whose error has the pattern of a mistake, in the reference's order.

    None where one side is in float32 or finer: what differs there is the rounding of the other's weights as well.
    """
    plan = replayed.plan
    dtypes = [run_dtype(trace.activations) for trace in (plan.reference, plan.port)]
    if not all(is_narrow(dtype) for dtype in dtypes):
        return ()
    unit = max(unit_roundoff(dtype) for dtype in dtypes)
    floor = Floor(ONE_ROUNDING * unit, unit)
    every = tuple(_floored(found, floor) for found in rows)
    left = [found.row for found in rows if found.left]
    scenes = (
        PlantedScene(plan.reference, plan.port, row, every, padding, replayed=replayed)
        for row in chosen(every)
        if row.activation.part is None and not given_wrong(row, left)
    )
    found = (suspicion_at(scene) for scene in scenes)
    return tuple(suspicion for suspicion in found if suspicion is not None)


def _floored(found: ReplayRow, floor: Floor) -> Row:
    """The row of a replay with the floor that a scene asks for; what was compared exactly has none."""
    return found.row if found.score is None else replace(found.row, floor=floor)
