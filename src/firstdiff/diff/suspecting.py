"""Causes in a replay: of what is wrong, and of what lies below the local floors and is known by its pattern.

Every tap is on inputs that are known to the bit, so each is judged by itself, whatever else is wrong; except where a
value that differs without effect was left in its place (queries that hold the attention's scale).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from firstdiff.diff.explain.explanation import explain_row, explain_scene
from firstdiff.diff.explain.faint import chosen, given_wrong, suspicion_at
from firstdiff.diff.explain.planted import PlantedScene, Replayed
from firstdiff.diff.explain.scene import norm
from firstdiff.diff.faults import merged
from firstdiff.diff.floor import ONE_ROUNDING, Floor, run_dtype
from firstdiff.diff.hidden import is_narrow
from firstdiff.traces.dtypes import unit_roundoff

if TYPE_CHECKING:
    from collections.abc import Sequence

    from firstdiff.diff.explain import Explanation
    from firstdiff.diff.explain.faint import Suspicion
    from firstdiff.diff.faults import Fault
    from firstdiff.diff.replayed import ReplayRow
    from firstdiff.diff.row import Row

MOST = 8
"""Faults that are explained."""
LARGEST = 1 << 24
"""Elements beyond which a tensor is not explained."""
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
    found: dict[tuple[str, str, str], Suspicion] = {}
    with np.errstate(all="ignore"):  # what goes in may hold NaN and infinities
        for suspicion in (suspicion_at(scene) for scene in scenes):
            if suspicion is not None:  # several results of one call (cos and sin) are one
                found.setdefault((suspicion.name, suspicion.site, suspicion.cause), suspicion)
    return tuple(found.values())


def explained(
    replayed: Replayed,
    rows: Sequence[ReplayRow],
    faults: Sequence[Fault],
    padding: np.ndarray | None = None,
) -> tuple[Fault, ...]:
    """``faults`` with the likely cause of each; of those that say the same of several layers, of the first.

    Independent of each other, since every one is on right inputs. At most `MOST` are explained.
    """
    judged = {found.row.activation.order: found for found in rows}
    first = [group[0].finding.order for _, group in merged(faults)][:MOST]
    every = tuple(_floored(found, None) for found in rows)
    told: list[Fault] = []
    for fault in faults:
        found = judged.get(fault.finding.order)
        if found is not None and fault.finding.order in first:
            fault = replace(fault, explanation=_explained(replayed, found, every, padding))
        told.append(fault)
    return tuple(told)


def _explained(
    replayed: Replayed, found: ReplayRow, every: tuple[Row, ...], padding: np.ndarray | None
) -> Explanation | None:
    """Why the tap is wrong; its floor is the noise that it was scored by, where it was."""
    row, score, plan = found.row, found.score, replayed.plan
    if row.activation.part is not None:
        return None
    if score is None:
        return explain_row(plan.reference, replayed.own, every, row, padding)
    if not score.whole:
        return None
    scene = PlantedScene(plan.reference, plan.port, row, every, padding, replayed=replayed)
    size = norm(scene.right[scene.valid])
    if np.prod(row.activation.shape) > LARGEST or not size:
        return None
    error = norm((scene.wrong - scene.right)[scene.valid])
    unit = unit_roundoff(row.activation.dtype)
    floor = Floor(max(error / size / score.whole, ONE_ROUNDING * unit), unit)
    with np.errstate(all="ignore"):  # what goes in may hold NaN and infinities
        return explain_scene(replace(scene, row=replace(row, floor=floor)))


def _floored(found: ReplayRow, floor: Floor | None) -> Row:
    """The row of a replay with the floor that a scene asks for; what was compared exactly has none."""
    return found.row if found.score is None else replace(found.row, floor=floor)
