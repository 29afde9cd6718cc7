"""Local noise floors: what rounding does between one tap and the next, when every tap is given.

Apart from `floor.py`, whose free runs let errors grow with depth. Here a model runs with values forced in at
every tap: in float64 (the truth of those inputs), in a port's dtype (`nat`, the rounding of one step) and in
float64 with inputs moved by a few ulp (`cond`, how much rounding of the inputs matters). Both are kept as root
mean squares by whole, row and column. The rule that uses them is the differ's (`diff/local.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch

from firstdiff.tracer.floor import padding_of
from firstdiff.tracer.forcing import Forcer, Values
from firstdiff.tracer.golden import inputs_as, run_in
from firstdiff.tracer.increments import Base, Increments
from firstdiff.tracer.spread_sink import OwnRun, SpreadSink
from firstdiff.tracer.stages import Stages
from firstdiff.tracer.state import untouched
from firstdiff.tracer.switches import model_dtype
from firstdiff.tracer.torch import EVERYTHING, Call, pristine, run
from firstdiff.traces import Header, Trace, TraceWriter, open_trace
from firstdiff.traces.dtypes import unit_roundoff
from firstdiff.traces.errors import FirstdiffError
from firstdiff.traces.spread import CONDITIONING, Spread, names, to_tables

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

    from firstdiff.tracer.events import Event, Sink
    from firstdiff.tracer.selection import Selection
    from firstdiff.traces.schema import Key


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


@dataclass(frozen=True)
class Reference:
    """A torch model with the inputs that all forced runs share."""

    model: nn.Module
    """The model; put back as it was after each run."""
    call: Call | None
    """``call(model, **inputs)``; None means ``model(**inputs)``."""
    inputs: Mapping[str, Any]
    """Tensors by keyword."""
    values: Values
    """What to force."""
    selection: Selection = EVERYTHING
    """Taps that take part."""

    def run(
        self,
        dtype: str,
        begin: Callable[[], Sink],
        *,
        perturb: bool = False,
        increments: Increments | None = None,
    ) -> frozenset[Key] | str:
        """Run once in ``dtype``, every event to the sink that ``begin`` makes (again where a run fails for want
        of a whole copy of the weights); the forced keys, or in a sentence what went wrong.
        """
        own = model_dtype(self.model) == dtype

        def work() -> frozenset[Key]:
            given = pristine(self.inputs) if own else inputs_as(self.inputs, dtype)
            forcer = Forcer(self.model, begin(), self.selection, self.values, perturb=perturb)
            with forcer, increments.used(forcer) if increments else nullcontext():
                run(self.model, self.call, given)
            if forcer.failure is not None:
                raise forcer.failure
            return frozenset(forcer.forced)

        try:
            with untouched(self.model), torch.no_grad():
                return work() if own else run_in(self.model, dtype, work)
        except (FirstdiffError, OSError, MemoryError, RuntimeError, TypeError) as error:
            return str(error) or type(error).__name__


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

    Costs two float64 forward passes and one for each dtype; eight bytes for each recorded element in
    ``scratch_dir``. ``own`` is the trace whose values are forced, where the model itself made them: then they are
    what the run in its own dtype computes, and it is not run again. A dtype that fails is left out, with a note.
    """
    stages = stages or Stages((), job="forced runs", tell=progress)
    with (
        TemporaryDirectory(prefix=".firstdiff-forced-", dir=scratch_dir) as folder,
        ExitStack() as stack,
    ):
        path, native = Path(folder) / "truth.h5", OwnRun(own, padding_of(reference.inputs))
        writers: list[TraceWriter] = []

        def begin() -> Sink:
            for earlier in writers:
                earlier.close()
            native.clear()
            writer = TraceWriter(
                path, Header(framework="torch"), digest=own is None, overwrite=True
            )
            writers.append(stack.enter_context(writer))
            return _both(native, _writer(writer, native.given))

        failures: list[str] = []
        forced: frozenset[Key] | str = ""
        for golden in _goldens(dtypes):
            with stages.stage(f"{golden} on the recorded values") as watched:
                forced = reference.run(golden, lambda to=watched: to(begin()))  # type: ignore[misc]  # mypy cannot infer defaults
                if not isinstance(forced, str):
                    writers[-1].finish()
                    break
            failures.append(f"no {golden} run with given values: {forced}")
        if isinstance(forced, str):
            yield "; ".join(failures)
            return
        with open_trace(path) as truth:
            increments = (
                Increments(reference.model, Base(own, truth, forced))
                if own is not None and golden == "float64"
                else None
            )
            runs = _measured(reference, truth, forced, dtypes, golden, stages, native, increments)
            yield replace(runs, increments=increments, notes=(*failures, *runs.notes))


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
    inside. Groups are kept once for a value that several taps saw.
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
        for name, found in {**runs.native, CONDITIONING: runs.conditioning}.items():
            by_order = {
                activations[key].order: spread if key in once else spread.whole
                for key, spread in found.items()
                if key in activations
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
    first = {a.place: a.key for a in reversed(trace.activations)}
    return set(first.values())


def _both(one: Sink, other: Sink) -> Sink:
    def sink(event: Event) -> None:
        one(event)
        other(event)

    return sink


def _writer(writer: TraceWriter, left_out: Container[Key]) -> Sink:
    def sink(event: Event) -> None:
        if event.key in left_out:
            return
        writer.write(event.key, event.value, dtype=event.dtype, same_as=event.same_as)

    return sink
