"""The two runs of a zoom: each side once more, looking into one module. Apart from what their values say."""

from __future__ import annotations

from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING

from firstdiff.inputs import trace_inputs
from firstdiff.planted_runs import run_planted
from firstdiff.recording import capture
from firstdiff.tracer.selection import Selection
from firstdiff.traces import Trace, open_trace
from firstdiff.traces.dtypes import COARSE, unit_roundoff

if TYPE_CHECKING:
    from collections.abc import Sequence

    from firstdiff.diff.row import Row
    from firstdiff.models.subject import Subject


def reference_inside(
    ours: Trace, model: Subject, paths: Sequence[str], folder: Path, dtype: str = ""
) -> Trace:
    """The reference on the inputs of its trace ``ours``, looking into the module at ``paths``; close it.

    Where ``dtype``, in which the two are compared, is a narrow one, what rounding does there is measured too.
    """
    path = folder / "inside.h5"
    floor = (dtype,) if dtype and unit_roundoff(dtype) > COARSE else ()
    capture(
        model, path, inputs=trace_inputs(ours), floor=floor, weights=False, verify=False, level="op",
        inside=tuple(map(escape, paths)),
    )  # fmt: skip
    return open_trace(path)


def port_inside(
    subject: Subject,
    rows: Sequence[Row],
    ours: Trace,
    theirs: Trace,
    paths: Sequence[str],
    folder: Path,
    mode: str = "jit",
    exact: bool = False,
) -> Trace:
    """The port with the reference's values planted at every module, looking into the one at ``paths``; close it."""
    from firstdiff.diff.planting import planting

    selection = Selection(level="op", inside=tuple(map(escape, paths)))
    plan = planting("port", rows, ours, theirs)
    path = folder / "own.h5"
    run_planted(subject, trace_inputs(ours), plan, path, mode, exact, selection=selection)
    return open_trace(path)
