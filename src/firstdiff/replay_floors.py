"""Which local floors judge a replay: recorded with the reference, or measured beside it. Apart from the runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from firstdiff.diff.stand_in import PREFIX
from firstdiff.traces.dtypes import unit_roundoff
from firstdiff.traces.errors import OptionError

if TYPE_CHECKING:
    from pathlib import Path

    from firstdiff.diff.local import FloorOf
    from firstdiff.inputs import Inputs
    from firstdiff.models.subject import Subject
    from firstdiff.traces import Trace
    from firstdiff.traces.schema import Key


def floors_in(ours: Trace, theirs: Trace) -> FloorOf:
    """The local floors of the trace ``ours`` for the port ``theirs``, or what stands in for them.

    Raises OptionError where there is neither.
    """
    require_elements(ours)
    found = _found(ours, theirs)
    if found is None:
        dtype = judged_dtype(ours, theirs)
        raise OptionError(
            f"{ours.path}: no local noise floor of {dtype} was recorded, so a replay cannot tell faults from "
            f"rounding; capture the reference again with --floor {dtype}"
        )
    return found[0]


def floor_note(ours: Trace, theirs: Trace) -> str:
    """What stands in for the local floors of ``ours``, a sentence; empty where they were recorded."""
    found = _found(ours, theirs)
    return f"judged with a stand-in ({found[1]})" if found is not None and found[1] else ""


def _found(ours: Trace, theirs: Trace) -> tuple[FloorOf, str] | None:
    from firstdiff.diff.floor import run_dtype
    from firstdiff.diff.local import recorded_floors, stand_in_floors

    dtype = judged_dtype(ours, theirs)
    alike = unit_roundoff(run_dtype(ours.activations)) >= unit_roundoff(dtype)
    found = recorded_floors(ours, dtype, rounded_alike=alike)
    if found is not None:
        return found, ""
    return stand_in_floors(ours, dtype, rounded_alike=alike)


def measured_floors(dtype: str, native: Mapping[Key, Any], moved: Mapping[Key, Any]) -> FloorOf:
    """Floors from forced runs: spreads by key of the rounding in ``dtype``, and of moved inputs."""
    from firstdiff.diff.local import MORE_ROUNDINGS, LocalFloor, nothing

    unit = unit_roundoff(dtype)

    def floor_of(activation: Any) -> LocalFloor | None:
        found = native.get(activation.key)
        if found is None:
            return None
        cond = moved.get(activation.key, nothing())
        return LocalFloor(unit, found, cond, inflation=MORE_ROUNDINGS)

    return floor_of


def with_free_floor(
    ours: Trace, subject: Subject, inputs: Inputs, dtype: str, scratch_dir: Path
) -> Trace:
    """The trace ``ours`` of the torch ``subject``, with the free floor of ``dtype``: one float64 run more, and one in
    ``dtype`` where that is not its own. Unchanged where there is none.
    """
    from firstdiff.planted_runs import tensors_of
    from firstdiff.tracer.floor import measure_free_floor

    orders = {a.key: a.order for a in ours.activations}
    found = measure_free_floor(
        subject.model,
        subject.call,
        tensors_of(inputs),
        orders=orders.get,
        dtypes=(dtype,),
        scratch_dir=scratch_dir,
        own=ours,
    )
    floors = {d: {"golden": found.golden[d], "method": "free"} for d in found.tables}
    header = replace(ours.header, extra={**ours.header.extra, "floors": floors})
    return ours.with_tables({f"{PREFIX}{d}": rows for d, rows in found.tables.items()}, header)


def judged_dtype(ours: Trace, theirs: Trace) -> str:
    """The coarser run's dtype, whose rounding is allowed."""
    from firstdiff.diff.floor import coarser, run_dtype

    return coarser(run_dtype(ours.activations), run_dtype(theirs.activations))


def require_elements(trace: Trace) -> None:
    """Raise OptionError when ``trace`` kept digests only."""
    if all(activation.place is None for activation in trace.activations):
        raise OptionError(
            f"{trace.path}: it holds digests only, and a replay forces values; capture it again without --digest"
        )
