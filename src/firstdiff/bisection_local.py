"""A block's values each on right inputs, where the free floors of its depth are too wide to say which is wrong first.

Apart from the search: it asks once, and only where the first value beyond its floor is barely so.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from firstdiff.bisection_inside import Spotted
from firstdiff.diff.cut_judge import first_fault
from firstdiff.diff.floor import coarser, run_dtype
from firstdiff.diff.judge import FAIL
from firstdiff.diff.local import recorded_floors
from firstdiff.diff.locate import row_of
from firstdiff.diff.planting import planting
from firstdiff.diff.replayed import judge_replay
from firstdiff.planted_runs import run_planted
from firstdiff.tracer.selection import Selection
from firstdiff.traces import open_trace
from firstdiff.traces.dtypes import unit_roundoff
from firstdiff.traces.padding import padding_mask

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from firstdiff.partial_runs import PartialRuns
    from firstdiff.traces import Activation, Trace
    from firstdiff.traces.schema import Key

_BARELY = FAIL
"""Error / floor up to which values before the one that is told may be wrong as well, each within its floor."""


def is_barely(spotted: Spotted) -> bool:
    """Whether the first wrong value is so by little, or none is."""
    if spotted.finding is None:
        return True
    row = row_of(spotted.finding, spotted.rows)
    score = None if row is None else row.verdict.score
    return score is not None and score < _BARELY


def on_right_inputs(
    runs: PartialRuns,
    ours: Trace,
    listing: Sequence[Activation],
    spotted: Spotted,
    given: Collection[Key],
    folder: Path,
) -> Spotted:
    """``spotted``, or an earlier first fault of its block: one run more, the reference's values at each module of it.

    The floors are the local ones of the reference's trace; without them nothing changes. ``given`` is what the block
    itself is given, by the reference's keys: made by what ran freely before it, so no local floor is meant for it.
    """
    dtypes = run_dtype(ours.activations), run_dtype(listing)
    dtype = coarser(*dtypes)
    alike = unit_roundoff(dtypes[0]) >= unit_roundoff(dtype)
    floors = recorded_floors(ours, dtype, rounded_alike=alike)
    if floors is None:
        return spotted
    path = folder / "right-inputs.h5"
    runs.runs += 1
    with open_trace(spotted.trace) as theirs:
        plan = planting("port", spotted.rows, ours, theirs)
        selection = Selection(runs.globs(a.key for a in theirs.activations))
        _, planted = run_planted(
            runs.subject, runs.inputs, plan, path, runs.mode, runs.exact, selection=selection
        )
    padding = padding_mask({name: ours.input_values(name) for name in ours.inputs})
    with open_trace(path) as own:
        judged, _ = judge_replay(
            plan, ours, own, floors,
            planted=lambda key: planted.get(key, "-") == "", padding=padding,
        )  # fmt: skip
    rows = tuple(found.row for found in judged if found.row.key not in given)
    finding = first_fault(rows)
    known = spotted.finding
    if finding is None or (known is not None and finding.order >= known.order):
        return spotted
    return Spotted(finding, rows, path)
