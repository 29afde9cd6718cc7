"""The free noise floor: how far rounding alone takes a run in the port's dtype from the golden run.

Apart from `golden.py`, which knows precisions; here two runs are compared, activation by
activation. Method: research on two-precision floors; D(p) = ||run - golden||2 / ||golden||2 over
real tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch

from firstdiff.tracer.comparison import Comparison, Orders, is_inexact
from firstdiff.tracer.golden import inputs_as, run_in
from firstdiff.tracer.hooks import Recorder
from firstdiff.tracer.stages import Stages
from firstdiff.tracer.state import untouched
from firstdiff.tracer.switches import model_dtype
from firstdiff.tracer.tensors import storage_array
from firstdiff.tracer.torch import EVERYTHING, Call, pristine, run
from firstdiff.traces import Header, Trace, TraceWriter, open_trace
from firstdiff.traces.dtypes import unit_roundoff, widen
from firstdiff.traces.errors import FirstdiffError, OptionError
from firstdiff.traces.padding import padding_mask

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

    from firstdiff.tracer.events import Event, Sink
    from firstdiff.tracer.increments import Increments
    from firstdiff.tracer.selection import Selection

DTYPES = ("float32", "bfloat16", "float16")
"""Dtypes of a port that a floor can be measured for."""


@dataclass(frozen=True)
class FreeFloor:
    """Free floors of one reference."""

    tables: dict[str, np.ndarray]
    """Rows (dtype `ROWS`) by the port's dtype, sorted by order."""
    golden: dict[str, str]
    """Precision of the golden run that each rests on: `float64`, or one precision up."""
    notes: tuple[str, ...]
    """Why a floor is missing, for people."""


def record_floors(
    model: nn.Module,
    call: Call | None,
    inputs: Mapping[str, Any],
    *,
    writer: TraceWriter,
    dtypes: Sequence[str],
    selection: Selection = EVERYTHING,
    scratch_dir: str | Path | None = None,
    own: Trace | None = None,
    increments: Increments | None = None,
    stages: Stages | None = None,
) -> tuple[dict[str, dict[str, str]], tuple[str, ...]]:
    """Measure the floors of the capture that ``writer`` holds, and write them to it.

    Returns what belongs into the header's `extra["floors"]`, and notes. ``scratch_dir`` (the
    trace's folder) takes the activations of lower precision for the time being. ``own`` is the
    capture itself where it is complete and kept elements: it is the run in the model's own dtype.
    """
    found = measure_free_floor(
        model,
        call,
        inputs,
        orders=writer.order_of,
        dtypes=dtypes,
        selection=selection,
        scratch_dir=scratch_dir or writer.path.parent,
        own=own,
        increments=increments,
        stages=stages,
    )
    for dtype, rows in found.tables.items():
        writer.write_table(f"floor/free/{dtype}", rows)
    described = {d: {"golden": found.golden[d], "method": "free"} for d in found.tables}
    return described, found.notes


def measure_free_floor(
    model: nn.Module,
    call: Call | None,
    inputs: Mapping[str, Any],
    *,
    orders: Orders,
    dtypes: Sequence[str],
    selection: Selection = EVERYTHING,
    scratch_dir: str | Path,
    own: Trace | None = None,
    increments: Increments | None = None,
    stages: Stages | None = None,
) -> FreeFloor:
    """Run ``model`` in each of ``dtypes`` and golden, and compare every floating-point activation.

    The golden run is float64 throughout; where an operation refuses that, float32 for coarser
    dtypes. It comes last and is compared while it runs, so that only the others' narrower values
    need room in ``scratch_dir``. ``own`` is a trace of the run in the model's own dtype, which then
    is not run again; ``increments`` make the golden run cheaper. What fails costs its floor and
    leaves a note. Memory: one activation at a time. The model is put back as it was. Raises
    OptionError for a dtype that no floor exists for.
    """
    for dtype in dtypes:
        if dtype not in DTYPES:
            raise OptionError(f"floor {dtype}: no such floor; choose from {', '.join(DTYPES)}")
    stages = stages or Stages((), job="noise floors")
    runs = _Runs(model, call, inputs, selection, stages, increments)
    notes: list[str] = []
    with ExitStack() as stack:
        lower: dict[str, Trace] = {}
        for dtype in dict.fromkeys(dtypes):
            if own is not None and dtype == model_dtype(model):
                lower[dtype] = own
                continue
            trace = stack.enter_context(runs.traced(dtype, scratch_dir))
            if isinstance(trace, str):
                notes.append(f"no noise floor of {dtype}: {trace}")
            else:
                lower[dtype] = trace
        tables, goldens, more = runs.golden(lower, orders)
    notes += more
    told = " ".join(notes)
    notes += [
        f"no noise floor of {d}: a golden run of higher precision failed"
        for d in dtypes
        if d not in tables and f"no noise floor of {d}" not in told
    ]
    return FreeFloor(tables, goldens, tuple(notes))


@dataclass(frozen=True)
class _Runs:
    """Runs of one model, each under hooks in a precision of its own."""

    model: nn.Module
    call: Call | None
    inputs: Mapping[str, Any]
    selection: Selection
    stages: Stages
    increments: Increments | None

    @contextmanager
    def traced(self, dtype: str, scratch_dir: str | Path) -> Iterator[Trace | str]:
        """A temporary trace of the run in ``dtype``, or why there is none."""
        with ExitStack() as stack:
            folder = stack.enter_context(
                TemporaryDirectory(prefix=".firstdiff-floor-", dir=scratch_dir)
            )
            path, writers = Path(folder) / f"{dtype}.h5", ExitStack()

            def sink() -> Sink:
                writers.close()
                header = Header(framework="torch")
                writer = TraceWriter(path, header, digest=False, overwrite=True)
                finished.append(writers.enter_context(writer))
                return inexact(writer)

            finished: list[TraceWriter] = []
            with writers, self.stages.stage(f"{dtype}, free") as watched:
                failure = self.run(dtype, lambda: watched(sink()))
                if failure is None:
                    finished[-1].finish()
            yield failure if failure is not None else stack.enter_context(open_trace(path))

    def golden(
        self, lower: Mapping[str, Trace], orders: Orders
    ) -> tuple[dict[str, np.ndarray], dict[str, str], list[str]]:
        """Tables, precision of the golden run by dtype, and notes."""
        tables: dict[str, np.ndarray] = {}
        goldens: dict[str, str] = {}
        notes: list[str] = []
        mask = padding_of(self.inputs)
        for golden in ("float64", "float32"):
            left = [d for d in lower if unit_roundoff(d) > unit_roundoff(golden)]
            if not left:
                break
            found: dict[str, Comparison] = {}
            with self.stages.stage(f"{golden}, free (golden)") as watched:

                def begin(
                    left: Sequence[str] = left,
                    found: dict[str, Comparison] = found,
                    watched: Callable[[Sink], Sink] = watched,
                ) -> Sink:
                    found.update({d: Comparison(lower[d], orders, mask) for d in left})
                    return watched(lambda event: _tell(found.values(), event))

                failure = self.run(golden, begin)
            if failure is None:
                tables = {d: comparison.rows() for d, comparison in found.items()}
                goldens = dict.fromkeys(found, golden)
                break
            notes.append(f"no {golden} golden run: {failure}")
        return tables, goldens, notes

    def run(self, dtype: str, begin: Callable[[], Sink]) -> str | None:
        """Run in ``dtype`` under hooks, into the sink that ``begin`` makes; None, or in one sentence
        what went wrong.
        """
        own = model_dtype(self.model) == dtype

        def work() -> None:
            given = pristine(self.inputs) if own else inputs_as(self.inputs, dtype)
            increments = self.increments if dtype == "float64" else None
            recorder = Recorder(self.model, begin(), self.selection)
            with recorder, increments.used(recorder) if increments else nullcontext():
                run(self.model, self.call, given)

        try:
            with untouched(self.model), torch.no_grad():
                if own:  # as the reference itself ran, autocast and mixed dtypes included
                    work()
                else:
                    run_in(self.model, dtype, work)
        except (FirstdiffError, OSError, MemoryError, RuntimeError, TypeError) as error:
            return str(error) or type(error).__name__
        return None


def inexact(writer: TraceWriter) -> Sink:
    """A sink that writes what has rounding errors."""

    def sink(event: Event) -> None:
        if is_inexact(event.dtype):
            writer.write(event.key, event.value, dtype=event.dtype, same_as=event.same_as)

    return sink


def _tell(comparisons: Iterable[Comparison], event: Event) -> None:
    for comparison in comparisons:
        comparison(event)


def padding_of(inputs: Mapping[str, Any]) -> np.ndarray | None:
    """The padding mask of torch ``inputs`` by keyword, as `padding_mask` gives it."""
    mask = inputs.get("attention_mask")
    if not isinstance(mask, torch.Tensor):
        return None
    array, dtype = storage_array(mask)
    return padding_mask({"attention_mask": widen(array, dtype)})
