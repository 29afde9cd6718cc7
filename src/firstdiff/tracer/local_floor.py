"""Local noise floors: what rounding does between one tap and the next, when every tap is given.

Apart from `floor.py`, whose free runs let errors grow with depth. Here a model runs with values forced in at
every tap: in float64 (the truth of those inputs), in a port's dtype (`nat`, the rounding of one step) and in
float64 with inputs moved by a few ulp (`cond`, how much rounding of the inputs matters). Both are kept as root
mean squares by whole, row and column. The rule that uses them is the differ's (`diff/local.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch

from firstdiff.tracer.comparison import is_inexact
from firstdiff.tracer.floor import padding_of
from firstdiff.tracer.forcing import Forcer, Values
from firstdiff.tracer.golden import in_precision, inputs_as
from firstdiff.tracer.state import untouched
from firstdiff.tracer.switches import model_dtype
from firstdiff.tracer.torch import EVERYTHING, Call, pristine, run
from firstdiff.traces import Header, Trace, TraceWriter, open_trace
from firstdiff.traces.dtypes import widen
from firstdiff.traces.errors import FirstdiffError
from firstdiff.traces.padding import valid_elements
from firstdiff.traces.spread import CONDITIONING, Spread, names, spreads, to_tables

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
    """What the float64 run computed at each tap before the value there was forced; exact kinds as well."""
    native: dict[str, dict[Key, Spread]] = field(default_factory=dict)
    """Spread of (run in dtype - truth), by dtype."""
    conditioning: dict[Key, Spread] = field(default_factory=dict)
    """Spread of (perturbed float64 run - truth)."""
    forced: frozenset[Key] = frozenset()
    """Keys whose values were forced."""
    notes: tuple[str, ...] = ()
    """What could not be run, for people."""


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

    def run(self, dtype: str, sink: Sink, *, perturb: bool = False) -> frozenset[Key] | str:
        """Run once in ``dtype``, every event to ``sink``; the forced keys, or in a sentence what went wrong."""
        own = model_dtype(self.model) == dtype
        try:
            with untouched(self.model), torch.no_grad(), ExitStack() as stack:
                if not own:
                    stack.enter_context(in_precision(self.model, dtype))
                given = pristine(self.inputs) if own else inputs_as(self.inputs, dtype)
                forcer = Forcer(self.model, sink, self.selection, self.values, perturb=perturb)
                with forcer:
                    run(self.model, self.call, given)
        except (FirstdiffError, OSError, MemoryError, RuntimeError, TypeError) as error:
            return str(error) or type(error).__name__
        return frozenset(forcer.forced)


@contextmanager
def forced_runs(
    reference: Reference,
    *,
    dtypes: Sequence[str],
    scratch_dir: str | Path | None = None,
    progress: Callable[[str], None] = lambda _message: None,
) -> Iterator[ForcedRuns | str]:
    """Run ``reference`` forced: float64, each of ``dtypes``, float64 perturbed; or why that cannot be.

    Costs two float64 forward passes and one for each dtype; one more copy of the weights in memory, eight
    bytes for each recorded element in ``scratch_dir``. A dtype that fails is left out, with a note.
    """
    with TemporaryDirectory(prefix=".firstdiff-forced-", dir=scratch_dir) as folder:
        path = Path(folder) / "truth.h5"
        progress("forced run in float64")
        with TraceWriter(path, Header(framework="torch")) as writer:
            forced = reference.run("float64", _writer(writer))
            if not isinstance(forced, str):
                writer.finish()
        if isinstance(forced, str):
            yield f"no float64 run with given values: {forced}"
            return
        with open_trace(path) as truth:
            yield _measured(reference, truth, forced, dtypes, progress)


def _measured(
    reference: Reference,
    truth: Trace,
    forced: frozenset[Key],
    dtypes: Sequence[str],
    progress: Callable[[str], None],
) -> ForcedRuns:
    mask, notes = padding_of(reference.inputs), []
    native: dict[str, dict[Key, Spread]] = {}
    for dtype in dict.fromkeys(dtypes):
        progress(f"forced run in {dtype}")
        found = SpreadSink(truth, mask)
        failure = reference.run(dtype, found)
        if isinstance(failure, str):
            notes.append(f"no local floor of {dtype}: {failure}")
        else:
            native[dtype] = found.found
    progress("forced run in float64, inputs perturbed")
    moved = SpreadSink(truth, mask)
    failure = reference.run("float64", moved, perturb=True)
    if isinstance(failure, str):
        notes.append(f"conditioning is not known: {failure}")
        return ForcedRuns(truth, native, {}, forced, tuple(notes))
    return ForcedRuns(truth, native, moved.found, forced, tuple(notes))


class SpreadSink:
    """A sink that measures each event against the true value of the same key."""

    def __init__(self, truth: Trace, mask: np.ndarray | None) -> None:
        """``mask`` is bool[batch, tokens], True at real tokens, or None."""
        self.found: dict[Key, Spread] = {}
        """Spreads of the differences."""
        self._truth, self._mask = truth, mask
        self._activations = {a.key: a for a in truth.activations}

    def __call__(self, event: Event) -> None:
        """Measure ``event``, unless it is exact or has no counterpart."""
        truth = self._activations.get(event.key)
        if truth is None or truth.shape != event.value.shape or not is_inexact(event.dtype):
            return
        known = self.found.get(event.same_as) if event.same_as is not None else None
        if known is None:
            valid = valid_elements(truth.shape, self._mask)
            known = spreads(widen(event.value, event.dtype), self._truth.values(truth), valid)[0]
        self.found[event.key] = known


def record_local_floors(
    model: nn.Module,
    call: Call | None,
    inputs: Mapping[str, Any],
    *,
    writer: TraceWriter,
    dtypes: Sequence[str],
    selection: Selection = EVERYTHING,
    progress: Callable[[str], None] = lambda _message: None,
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Measure the local floors of the capture that ``writer`` holds, and write their tables to it.

    Forced are the capture's own values, read back from its part file. Returns the dtypes that have a floor,
    and notes. Groups are kept once for a value that several taps saw.
    """
    with open_trace(writer.part, partial=True) as own:
        activations = {a.key: a for a in own.activations if a.place is not None}
        if not activations:
            return (), ()

        def values(key: Key) -> tuple[np.ndarray, str] | None:
            found = activations.get(key)
            return None if found is None else (own.stored(found), found.dtype)

        reference = Reference(model, call, inputs, values, selection)
        with forced_runs(
            reference, dtypes=dtypes, scratch_dir=writer.path.parent, progress=progress
        ) as runs:
            if isinstance(runs, str):
                return (), (runs,)
            once = _first_seen(own)
            for name, found in {**runs.native, CONDITIONING: runs.conditioning}.items():
                by_order = {
                    activations[key].order: spread if key in once else spread.whole
                    for key, spread in found.items()
                    if key in activations
                }
                for table, rows in zip(names(name), to_tables(by_order), strict=True):
                    writer.write_table(table, rows)
            return tuple(runs.native), runs.notes


def _first_seen(trace: Trace) -> set[Key]:
    """Keys whose stored bytes no earlier activation has."""
    first = {a.place: a.key for a in reversed(trace.activations)}
    return set(first.values())


def _writer(writer: TraceWriter) -> Sink:
    def sink(event: Event) -> None:
        writer.write(event.key, event.value, dtype=event.dtype, same_as=event.same_as)

    return sink
