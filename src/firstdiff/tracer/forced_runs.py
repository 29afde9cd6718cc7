"""A torch model run with values forced in at every tap, in several precisions: what rounding does from tap to tap.

In float64 (the truth of those values), in a port's dtype (`native`, the rounding of one step) and in float64 with
values moved by a few ulp (`conditioning`, how much rounding of them matters). The last two are measured against the
first while they run, and kept as root mean squares by whole, row and column.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from firstdiff.tracer.floor import padding_of
from firstdiff.tracer.increments import Base, Increments
from firstdiff.tracer.spread_sink import OwnRun, SpreadSink
from firstdiff.tracer.stages import Stages
from firstdiff.tracer.switches import model_dtype
from firstdiff.tracer.truth_file import TruthFile
from firstdiff.traces.dtypes import unit_roundoff

if TYPE_CHECKING:
    import numpy as np

    from firstdiff.tracer.events import Sink
    from firstdiff.tracer.reference import Reference
    from firstdiff.traces import Trace
    from firstdiff.traces.schema import Key
    from firstdiff.traces.spread import Spread


@dataclass(frozen=True)
class ForcedRuns:
    """A reference run with values forced in, in several precisions."""

    truth: Trace
    """What the golden run computed at each tap before the value there was forced; exact kinds as well."""
    native: dict[str, dict[Key, Spread]] = field(default_factory=dict)
    """Spread of (run in dtype - truth), by dtype."""
    conditioning: dict[Key, Spread] = field(default_factory=dict)
    """Spread of (perturbed float64 run - truth)."""
    forced: frozenset[Key] = frozenset()
    """Keys whose values were forced."""
    notes: tuple[str, ...] = ()
    """What could not be run, for people."""
    increments: Increments | None = None
    """Linear layers by what moved since; None where the forced values are not the model's own."""
    golden: str = "float64"
    """Precision of the truth: float64, or float32 where an operation refuses that."""


@contextmanager
def forced_runs(
    reference: Reference,
    *,
    dtypes: Sequence[str],
    scratch_dir: str | Path | None = None,
    progress: Callable[[str], None] = lambda _message: None,
    own: Trace | None = None,
    stages: Stages | None = None,
) -> Iterator[ForcedRuns | str]:
    """Run ``reference`` forced: float64, each of ``dtypes``, float64 perturbed; or why that cannot be. Where an
    operation refuses float64, float32 stands for it, for coarser dtypes.

    Costs two float64 forward passes (the second one's linear layers by their increments, in float32) and one for
    each dtype; up to eight bytes for each recorded element in ``scratch_dir``. ``own`` is the trace whose values are
    forced, where the model itself made them: then they are what the run in its own dtype computes, and it is not run
    again. A dtype that fails is left out, with a note.
    """
    stages = stages or Stages((), job="forced runs", tell=progress)
    native = OwnRun(own, padding_of(reference.inputs))
    failures: list[str] = []
    forced: frozenset[Key] | str = ""
    with (
        TemporaryDirectory(prefix=".firstdiff-forced-", dir=scratch_dir) as folder,
        TruthFile(Path(folder) / "truth.h5", reference.values, native) as kept,
    ):
        for golden in _goldens(dtypes):
            with stages.stage(f"{golden} on the recorded values") as watched:
                forced = reference.run(golden, lambda to=watched: to(kept.begin()))  # type: ignore[misc]  # mypy cannot infer defaults
                if not isinstance(forced, str):
                    break
            failures.append(f"no {golden} run with given values: {forced}")
        if isinstance(forced, str):
            yield "; ".join(failures)
            return
        truth = kept.opened()
        increments = (
            Increments(reference.model, Base(reference.values, truth, forced))
            if golden == "float64"
            else None
        )
        runs = _measured(reference, truth, forced, dtypes, golden, stages, native, increments)
        further = None if own is None else increments
        yield replace(runs, increments=further, notes=(*failures, *runs.notes))


def _goldens(dtypes: Sequence[str]) -> tuple[str, ...]:
    """Precisions of the truth to try: float64, else one precision above the coarser dtypes."""
    coarse = any(unit_roundoff(dtype) > unit_roundoff("float32") for dtype in dtypes)
    return ("float64", "float32") if coarse else ("float64",)


def _measured(
    reference: Reference,
    truth: Trace,
    forced: frozenset[Key],
    dtypes: Sequence[str],
    golden: str,
    stages: Stages,
    native_run: OwnRun,
    increments: Increments | None,
) -> ForcedRuns:
    mask, notes = padding_of(reference.inputs), []
    native: dict[str, dict[Key, Spread]] = {}
    for dtype in dict.fromkeys(dtypes):
        found: dict[Key, Spread] | str
        if unit_roundoff(dtype) <= unit_roundoff(golden):
            found = f"its truth, {golden}, is no finer"
        elif native_run.own is not None and dtype == model_dtype(reference.model):
            found = native_run.found
        else:
            with stages.stage(f"{dtype} on the recorded values") as watched:
                begin = _sinks(truth, mask, native_run, watched)
                found = _spread(reference, dtype, begin)
        if isinstance(found, str):
            notes.append(f"no local floor of {dtype}: {found}")
        else:
            native[dtype] = found
    with stages.stage(f"{golden} on perturbed values") as watched:
        begin = _sinks(truth, mask, native_run, watched)
        moved = _spread(reference, golden, begin, perturb=True, increments=increments)
    if isinstance(moved, str):
        notes.append(f"conditioning is not known: {moved}")
        moved = {}
    return ForcedRuns(truth, native, moved, forced, tuple(notes), golden=golden)


def _sinks(
    truth: Trace, mask: np.ndarray | None, native: OwnRun, watched: Callable[[Sink], Sink]
) -> Callable[[], tuple[SpreadSink, Sink]]:
    """Makes a sink that measures, and the same watched."""

    def begin() -> tuple[SpreadSink, Sink]:
        sink = SpreadSink(truth, mask, native)
        return sink, watched(sink)

    return begin


def _spread(
    reference: Reference,
    dtype: str,
    begin: Callable[[], tuple[SpreadSink, Sink]],
    *,
    perturb: bool = False,
    increments: Increments | None = None,
) -> dict[Key, Spread] | str:
    """Spread of (run in ``dtype`` - truth), or why there is none."""
    found: dict[Key, Spread] = {}

    def sink() -> Sink:
        nonlocal found
        measured, watched = begin()
        found = measured.found
        return watched

    failure = reference.run(dtype, sink, perturb=perturb, increments=increments)
    return failure if isinstance(failure, str) else found
