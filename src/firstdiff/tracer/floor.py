"""The free noise floor: how far rounding alone takes a run in the port's dtype from the golden run.

Apart from `golden.py`, which knows precisions; here two runs are compared, activation by
activation. Method: research on two-precision floors; D(p) = ||run - golden||2 / ||golden||2 over
real tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch

from firstdiff.tracer.comparison import Comparison, Orders, is_inexact
from firstdiff.tracer.golden import in_precision, inputs_as
from firstdiff.tracer.hooks import Recorder
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
    progress: Callable[[str], None] = lambda _message: None,
) -> tuple[dict[str, dict[str, str]], tuple[str, ...]]:
    """Measure the floors of the capture that ``writer`` holds, and write them to it.

    Returns what belongs into the header's `extra["floors"]`, and notes. ``scratch_dir`` (the
    trace's folder) takes the golden activations for the time being: eight bytes for each element.
    """
    found = measure_free_floor(
        model,
        call,
        inputs,
        orders=writer.order_of,
        dtypes=dtypes,
        selection=selection,
        scratch_dir=scratch_dir or writer.path.parent,
        progress=progress,
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
    progress: Callable[[str], None] = lambda _message: None,
) -> FreeFloor:
    """Run ``model`` golden and in each of ``dtypes``, and compare every floating-point activation.

    The golden run is float64 throughout; where an operation refuses that, float32 for coarser
    dtypes. What fails costs its floor and leaves a note. Memory: one more copy of the weights, one
    activation at a time. The model is put back as it was. Raises OptionError for a dtype that no
    floor exists for.
    """
    for dtype in dtypes:
        if dtype not in DTYPES:
            raise OptionError(f"floor {dtype}: no such floor; choose from {', '.join(DTYPES)}")
    tables: dict[str, np.ndarray] = {}
    goldens: dict[str, str] = {}
    notes: list[str] = []
    left = list(dict.fromkeys(dtypes))
    for golden in ("float64", "float32"):
        left = [d for d in left if unit_roundoff(d) > unit_roundoff(golden)]
        if not left:
            break
        progress(f"golden run in {golden}")
        with _golden_trace(model, call, inputs, golden, selection, scratch_dir) as trace:
            if isinstance(trace, str):
                notes.append(f"no {golden} golden run: {trace}")
                continue
            for dtype in left:
                progress(f"noise floor of {dtype}")
                rows = _measure(model, call, inputs, dtype, trace, orders, selection)
                if isinstance(rows, str):
                    notes.append(f"no noise floor of {dtype}: {rows}")
                else:
                    tables[dtype], goldens[dtype] = rows, golden
            break
    told = " ".join(notes)
    notes += [
        f"no noise floor of {d}: a golden run of higher precision failed"
        for d in dtypes
        if d not in tables and f"no noise floor of {d}" not in told
    ]
    return FreeFloor(tables, goldens, tuple(notes))


@contextmanager
def _golden_trace(
    model: nn.Module,
    call: Call | None,
    inputs: Mapping[str, Any],
    golden: str,
    selection: Selection,
    scratch_dir: str | Path,
) -> Iterator[Trace | str]:
    """A temporary trace of the golden run, or why there is none."""
    with TemporaryDirectory(prefix=".firstdiff-golden-", dir=scratch_dir) as folder:
        path = Path(folder) / "golden.h5"
        failure = None
        with TraceWriter(path, Header(framework="torch"), digest=False) as writer:

            def sink(event: Event) -> None:
                if is_inexact(event.dtype):
                    writer.write(event.key, event.value, dtype=event.dtype, same_as=event.same_as)

            failure = _run_in(model, call, inputs, golden, sink, selection)
            if failure is None:
                writer.finish()
        if failure is not None:
            yield failure
            return
        with open_trace(path) as trace:
            yield trace


def _measure(
    model: nn.Module,
    call: Call | None,
    inputs: Mapping[str, Any],
    dtype: str,
    golden: Trace,
    orders: Orders,
    selection: Selection,
) -> np.ndarray | str:
    """Rows of the floor of ``dtype``, or why there are none."""
    comparison = Comparison(golden, orders, padding_of(inputs))
    failure = _run_in(model, call, inputs, dtype, comparison, selection)
    return failure if failure is not None else comparison.rows()


def _run_in(
    model: nn.Module,
    call: Call | None,
    inputs: Mapping[str, Any],
    dtype: str,
    sink: Sink,
    selection: Selection,
) -> str | None:
    """Run ``model`` in ``dtype`` under hooks; None, or in one sentence what went wrong."""
    own = model_dtype(model) == dtype
    try:
        with untouched(model), torch.no_grad():
            if own:  # as the reference itself ran, autocast and mixed dtypes included
                with Recorder(model, sink, selection):
                    run(model, call, pristine(inputs))
            else:
                with in_precision(model, dtype), Recorder(model, sink, selection):
                    run(model, call, inputs_as(inputs, dtype))
    except (FirstdiffError, OSError, MemoryError, RuntimeError, TypeError) as error:
        return str(error) or type(error).__name__
    return None


def padding_of(inputs: Mapping[str, Any]) -> np.ndarray | None:
    """The padding mask of torch ``inputs`` by keyword, as `padding_mask` gives it."""
    mask = inputs.get("attention_mask")
    if not isinstance(mask, torch.Tensor):
        return None
    array, dtype = storage_array(mask)
    return padding_mask({"attention_mask": widen(array, dtype)})
