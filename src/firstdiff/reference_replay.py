"""Reference replay: the trace of a port is forced, offline, into the PyTorch reference, in float64, in the port's dtype
and perturbed. No JAX, no second run of the port. Apart from `port_replay.py`, the other way round.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from firstdiff.contested import contested, settled
from firstdiff.decoders import decoding_call
from firstdiff.decoding import decoding_of
from firstdiff.feeding import fit_inputs
from firstdiff.inputs import trace_inputs
from firstdiff.planted_runs import tensors_of
from firstdiff.recording import capture, is_torch_module
from firstdiff.replay_floors import judged_dtype, measured_floors, require_elements, with_free_floor
from firstdiff.replay_result import Judged, judged_taps, result_of
from firstdiff.traces import open_trace
from firstdiff.traces.errors import OptionError

if TYPE_CHECKING:
    from firstdiff.diff import Diff
    from firstdiff.diff.planting import Planting
    from firstdiff.diff.replayed import Replay
    from firstdiff.diff.row import Row
    from firstdiff.inputs import Inputs
    from firstdiff.models.subject import Subject
    from firstdiff.tracer.forced_runs import ForcedRuns
    from firstdiff.traces import Trace

Progress = Callable[[str], None]


def replay_reference(
    subject: Subject,
    port: str | Path,
    *,
    judged: Judged | None = None,
    map: str | Path | None = None,
    progress: Progress = lambda _message: None,
) -> Replay:
    """Run the torch reference ``subject`` with the values of the trace ``port`` forced in."""
    from firstdiff.diff.planting import planting

    _require_torch(subject)
    began = time.monotonic()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="firstdiff-")))
        theirs = stack.enter_context(open_trace(port))
        require_elements(theirs)
        free = _healable(_run_freely(subject, theirs, folder, stack, map, progress), progress)

        def run(rows: Sequence[Row], name: str) -> Replay:
            plan, half = planting("reference", rows, free.trace, theirs), time.monotonic()
            (folder / name).mkdir()
            runs = _completed(stack.enter_context(free.forced(plan, folder / name, progress)), free)
            floors = measured_floors(free.dtype, runs.native[free.dtype], runs.conditioning)
            forced = dict.fromkeys(runs.forced, "")
            result = judged_taps(
                plan, runs.truth, theirs, floors, forced, judged or Judged(), theirs
            )
            seconds = half - began, time.monotonic() - half, 3
            return result_of(result, plan, forced, subject.name, str(port), seconds)

        doubt = contested(free.result, free.trace, theirs, map)
        return settled(run(free.result.rows, "weighed"), doubt, lambda rows: run(rows, "named"))


def _require_torch(subject: Subject) -> None:
    if not is_torch_module(subject.model):
        raise OptionError(
            f"{subject.name or 'the reference'}: a reference replay needs a PyTorch model, this is a "
            f"{type(subject.model).__name__}; for a port give its reference's trace: firstdiff replay REF.h5 SUBJECT"
        )


@dataclass(frozen=True)
class _Free:
    """The reference as it runs by itself on the port's inputs."""

    subject: Subject
    call: Callable[..., Any] | None
    """How it is called: decoding as the port does, or once."""
    inputs: Inputs
    """The port's, as the reference takes them."""
    dtype: str
    """Whose rounding is allowed."""
    trace: Trace
    result: Diff
    """Its comparison with the port's trace."""
    again: Callable[[Trace], Diff]
    """That comparison, made of another trace of the reference."""
    folder: Path
    """Where its files lie."""
    decodes: bool

    def forced(
        self, plan: Planting, folder: Path, progress: Progress
    ) -> AbstractContextManager[ForcedRuns | str]:
        """Its runs with the values of ``plan``, whose files lie in ``folder``."""
        from firstdiff.tracer.forced_runs import forced_runs
        from firstdiff.tracer.reference import Reference

        taps = plan.keys()
        model = Reference(
            self.subject.model,
            self.call,
            tensors_of(self.inputs),
            lambda key: plan.value(taps[key]) if key in taps else None,
        )
        return forced_runs(model, dtypes=(self.dtype,), scratch_dir=folder, progress=progress)


def _run_freely(
    subject: Subject,
    theirs: Trace,
    folder: Path,
    stack: ExitStack,
    map: str | Path | None,
    progress: Progress,
) -> _Free:
    """``subject`` recorded on the inputs of ``theirs``; the trace is closed with ``stack``."""
    from firstdiff.diff import diff
    from firstdiff.diff.weights.table import DIGESTS

    progress("capturing the reference")
    inputs, decoding = trace_inputs(theirs), decoding_of(theirs)
    path, weights = folder / "reference.h5", None if DIGESTS in theirs.tables else False
    capture(
        subject, path, inputs=inputs, steps=decoding or 0, floor=(), verify=False,
        weights=weights, progress=progress,
    )  # fmt: skip
    ours = stack.enter_context(open_trace(path))

    def compared(trace: Trace) -> Diff:
        return diff(trace, theirs, map=map)

    call = subject.call if decoding is None else decoding_call(subject, decoding)[1]
    fitted = fit_inputs(subject, inputs)[0]
    dtype = judged_dtype(ours, theirs)
    return _Free(
        subject, call, fitted, dtype, ours, compared(ours), compared, folder, decoding is not None
    )


def _healable(free: _Free, progress: Progress) -> _Free:
    """``free`` with a floor of its free run, where healing hangs on one."""
    from firstdiff.diff.healing import undecided

    if free.decodes or not undecided(free.result.rows):
        return free
    progress("measuring what rounding does to a free run")
    trace = with_free_floor(free.trace, free.subject, free.inputs, free.dtype, free.folder)
    return replace(free, trace=trace, result=free.again(trace))


def _completed(runs: ForcedRuns | str, free: _Free) -> ForcedRuns:
    """``runs`` that hold what the dtype of ``free`` needs."""
    if isinstance(runs, str) or free.dtype not in runs.native:
        why = runs if isinstance(runs, str) else " ".join(runs.notes)
        raise OptionError(
            f"{free.subject.name}: {why}; replay the port "
            "instead (firstdiff replay REF.h5 SUBJECT), or compare the traces with firstdiff diff"
        )
    return runs
