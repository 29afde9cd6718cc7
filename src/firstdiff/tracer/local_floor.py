"""Local noise floors: what rounding does between one tap and the next, when every tap is given.

Apart from `floor.py`, whose free runs let errors grow with depth, and from `forced_runs.py`, which runs the model:
here the figures become tables of a trace. The rule that uses them is the differ's (`diff/local.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from firstdiff.tracer.forced_runs import forced_runs
from firstdiff.tracer.reference import Reference
from firstdiff.tracer.torch import EVERYTHING, Call
from firstdiff.traces.spread import CONDITIONING, names, to_tables

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

    from firstdiff.tracer.increments import Increments
    from firstdiff.tracer.selection import Selection
    from firstdiff.tracer.stages import Stages
    from firstdiff.traces import Trace, TraceWriter
    from firstdiff.traces.schema import Key


@contextmanager
def local_floors(
    model: nn.Module,
    call: Call | None,
    inputs: Mapping[str, Any],
    *,
    writer: TraceWriter,
    own: Trace,
    dtypes: Sequence[str],
    selection: Selection = EVERYTHING,
    whole: bool = True,
    stages: Stages | None = None,
) -> Iterator[LocalFloors]:
    """Measure the local floors of the capture that ``writer`` holds, and write their tables to it.

    Forced are the capture's own values, read back from its part file ``own``. ``whole`` says that it holds every
    element: then it is the run in the model's own dtype, and that is not run again. What it yields can be used
    inside. Groups are kept once for a value that several taps saw. What functions take and return has floors too,
    where ``selection`` looks inside modules; it is not forced.
    """
    activations = {a.key: a for a in own.activations if a.place is not None}
    if not activations:
        yield LocalFloors()
        return

    def values(key: Key) -> tuple[np.ndarray, str] | None:
        found = activations.get(key)
        return None if found is None else (own.stored(found), found.dtype)

    reference = Reference(model, call, inputs, values, selection)
    with forced_runs(
        reference,
        dtypes=dtypes,
        scratch_dir=writer.path.parent,
        own=own if whole else None,
        stages=stages,
    ) as runs:
        if isinstance(runs, str):
            yield LocalFloors(notes=(runs,))
            return
        once = _first_seen(own)
        orders = {a.key: a.order for a in (*own.activations, *own.deeper) if a.place is not None}
        for name, found in {**runs.native, CONDITIONING: runs.conditioning}.items():
            by_order = {
                orders[key]: spread if key in once else spread.whole
                for key, spread in found.items()
                if key in orders
            }
            for table, rows in zip(names(name), to_tables(by_order), strict=True):
                writer.write_table(table, rows)
        yield LocalFloors(tuple(runs.native), runs.notes, runs.increments, runs.golden)


@dataclass(frozen=True)
class LocalFloors:
    """What was recorded."""

    dtypes: tuple[str, ...] = ()
    """Dtypes that have a local floor."""
    notes: tuple[str, ...] = ()
    """What is missing, for people."""
    increments: Increments | None = None
    """For further float64 runs of the same model on the same inputs."""
    golden: str = "float64"
    """Precision of the truth."""


def _first_seen(trace: Trace) -> set[Key]:
    """Keys whose stored bytes no earlier activation has."""
    first = {a.place: a.key for a in reversed((*trace.activations, *trace.deeper))}
    return set(first.values())
