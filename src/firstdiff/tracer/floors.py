"""Every floor of a reference, recorded with it. Apart from the two kinds of floor, which know nothing of each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from firstdiff.tracer.floor import record_floors
from firstdiff.tracer.local_floor import LocalFloors, local_floors
from firstdiff.tracer.stages import Stages, Tell
from firstdiff.tracer.switches import model_dtype
from firstdiff.tracer.torch import EVERYTHING, Call
from firstdiff.traces import Trace, TraceWriter, open_trace
from firstdiff.traces.dtypes import unit_roundoff

if TYPE_CHECKING:
    from torch import nn

    from firstdiff.tracer.selection import Selection


def record_all_floors(
    model: nn.Module,
    call: Call | None,
    inputs: Mapping[str, Any],
    *,
    writer: TraceWriter,
    dtypes: Sequence[str],
    selection: Selection = EVERYTHING,
    local: bool = True,
    whole: bool = True,
    forward: float | None = None,
    progress: Tell = lambda _message: None,
) -> tuple[dict[str, dict[str, str]], tuple[str, ...]]:
    """Measure the free and local floors of the capture that ``writer`` holds, and write them to it.

    ``local`` is False for a capture without elements. ``whole`` says that every value was kept as the model made
    it; then the run in the model's own dtype is the capture itself, and is not repeated. ``forward`` is the wall
    time of one forward pass in seconds, where it is known: the cost is told before it starts. Returns what belongs
    into the header's `extra["floors"]`, and notes.
    """
    whole = whole and local
    with ExitStack() as stack:
        own = stack.enter_context(open_trace(writer.part, partial=True)) if local else None
        others = [d for d in dict.fromkeys(dtypes) if not (whole and d == model_dtype(model))]
        stages = Stages(
            _runs(others, local), job="noise floors", forward=forward,
            events=writer.count, scratch=_scratch(own), tell=progress,
        )  # fmt: skip
        stages.announce()
        found = LocalFloors()
        if own is not None:
            found = stack.enter_context(
                local_floors(
                    model, call, inputs, writer=writer, own=own, dtypes=dtypes,
                    selection=selection, whole=whole, stages=stages,
                )
            )  # fmt: skip
        floors, notes = record_floors(
            model, call, inputs, writer=writer, dtypes=dtypes, selection=selection,
            own=own if whole else None, increments=found.increments, stages=stages,
        )  # fmt: skip
    return _described(floors, found), (*notes, *found.notes)


def _runs(dtypes: Sequence[str], local: bool) -> list[str]:
    """The precisions of all passes: free ones in ``dtypes`` and float64, and for local floors the same and float64."""
    return [*dtypes, "float64", *([*dtypes, "float64", "float64"] if local else [])]


def _described(
    floors: Mapping[str, dict[str, str]], found: LocalFloors
) -> dict[str, dict[str, str]]:
    """What the header says of each dtype's floors."""
    local = {dtype: {"local": found.golden} for dtype in found.dtypes}
    return {d: floors.get(d, {}) | local.get(d, {}) for d in {**floors, **local}}


def _scratch(own: Trace | None) -> int:
    """Bytes of the float64 values of every module's inputs and results, about."""
    if own is None:
        return 0
    return sum(
        8 * (a.place.nbytes // max(1, own.stored(a).itemsize))
        for a in own.activations
        if a.place is not None and unit_roundoff(a.dtype)
    )
