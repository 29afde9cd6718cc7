"""`replay`: one side's values forced into the other side's computation, so that all faults show at once.

Here runs are made and put in order. What is forced where is `diff/planting.py`'s business, what comes of it
`diff/replayed.py`'s; the forcing itself is the tracers'.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from firstdiff.contested import Contested, contested
from firstdiff.decoders import decoding_call, has_cache
from firstdiff.decoding import decoding_of
from firstdiff.feeding import fit_inputs
from firstdiff.inputs import trace_inputs
from firstdiff.planted_runs import run_planted, tensors_of
from firstdiff.recording import as_subject, capture, is_torch_module
from firstdiff.replay_floors import (
    floors_in,
    judged_dtype,
    measured_floors,
    require_elements,
    with_free_floor,
)
from firstdiff.replay_result import judged_taps, result_of
from firstdiff.traces import open_trace
from firstdiff.traces.errors import OptionError

if TYPE_CHECKING:
    from firstdiff.diff import Diff
    from firstdiff.diff.local import FloorOf
    from firstdiff.diff.replayed import Replay
    from firstdiff.diff.row import Row
    from firstdiff.models.subject import Subject
    from firstdiff.tracer.forced_runs import ForcedRuns

Progress = Callable[[str], None]


def _quiet(_message: str) -> None:
    return


@dataclass(frozen=True)
class Judged:
    """Which taps of a replay are judged."""

    only: str | None = None
    """Those of modules whose path matches this glob."""
    start: str | None = None
    """Those from the first tap at or below this module on."""
    floors: FloorOf | None = None
    """By other floors than those of the port's dtype: what another dtype could see."""


def replay(
    first: Any,
    second: Any,
    *,
    only: str | None = None,
    start: str | None = None,
    map: str | Path | None = None,
    dtype: str | None = None,
    mode: str = "jit",
    exact: bool = False,
    framework: str | None = None,
    attn_implementation: str = "eager",
    trust_remote_code: bool = False,
    progress: Progress = _quiet,
) -> Replay:
    """Find every fault of a port at once.

    ``replay("ref.h5", subject)`` runs the port ``subject`` with the reference's values planted at every
    aligned tap: one jitted pass, no PyTorch. ``replay("hf:DIR", "port.h5")`` forces the port's recorded values
    into the PyTorch reference, in float64, in the port's dtype and perturbed: no JAX, no second run of the
    port. Either way the values that the model computed itself are judged on local noise floors.

    Args:
        first, second: the reference, then the port; one of them a trace, the other what `capture` takes.
        only: judge modules whose path (without the outer wrapper) matches this glob.
        start: judge from this module on.
        map: module pairs of your own, as for `diff`.
        dtype, framework, attn_implementation, trust_remote_code: how the model is loaded, as for `capture`.
        mode, exact: as for `capture` of a JAX port.
        progress: is told what is going on.

    Raises:
        OptionError: neither or both are traces, a filter matches nothing, the reference's trace has no local
            floors for the port's dtype, or kept no elements.
        TraceError, SubjectError, InputMismatch: as for `check`.
    """
    traces = [_is_trace(side) for side in (first, second)]
    if traces[0] == traces[1]:
        raise OptionError(
            f"replay {first} {second}: {'both are traces' if traces[0] else 'neither is a trace'}; give the "
            "reference's trace and the port (REF.h5 SUBJECT), or the reference and the port's trace (SUBJECT PORT.h5)"
        )
    judged = Judged(only, start)
    loading = {
        "framework": framework,
        "attn_implementation": attn_implementation,
        "trust_remote_code": trust_remote_code,
    }
    subject = second if traces[0] else first
    if isinstance(subject, str | Path):
        progress("loading the model")
    given = as_subject(subject, dtype, **loading)  # type: ignore[arg-type]  # keywords of several types
    if traces[0]:
        return replay_port(
            first, given, judged=judged, map=map, mode=mode, exact=exact, progress=progress
        )
    return replay_reference(given, second, judged=judged, map=map, progress=progress)


def _is_trace(side: Any) -> bool:
    return isinstance(side, str | Path) and Path(side).suffix in (".h5", ".hdf5", ".part")


def replay_port(
    reference: str | Path,
    subject: Subject,
    *,
    free: tuple[Path, Diff] | None = None,
    judged: Judged | None = None,
    map: str | Path | None = None,
    mode: str = "jit",
    exact: bool = False,
    progress: Progress = _quiet,
) -> Replay:
    """Run ``subject`` with the values of the trace ``reference`` planted.

    ``free`` is the port's own trace and its comparison with the reference, when they were made already.
    """
    from firstdiff.diff import diff
    from firstdiff.diff.planting import planting

    began = time.monotonic()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="firstdiff-")))
        ours = stack.enter_context(open_trace(reference))
        inputs, decoding = trace_inputs(ours), decoding_of(ours)
        if free is None:
            progress("capturing the port")
            path = folder / "port.h5"
            capture(
                subject, path, inputs=inputs, steps=decoding or 0, floor=(), mode=mode, exact=exact,
                verify=False, progress=progress,
            )  # fmt: skip
            progress("comparing")
            free = path, diff(reference, path, map=map)
        theirs = stack.enter_context(open_trace(free[0]))
        decoding, doubt = decoding_of(theirs), contested(free[1], ours, theirs, map)
        prompt = decoding is not None and not has_cache(subject)
        if prompt:
            decoding = None
            progress("without a cache, the prompt alone is replayed")
        judged = judged or Judged()
        floors = judged.floors or floors_in(ours, theirs)

        def run(rows: Sequence[Row], name: str) -> Replay:
            kept = [row for row in rows if row.key.step == 0] if prompt else rows
            plan = planting("port", kept, ours, theirs)
            half = time.monotonic()
            progress(f"replaying the port with {len(plan.keys())} values of the reference")
            own, planted = run_planted(subject, inputs, plan, folder / name, mode, exact, decoding)
            made = stack.enter_context(open_trace(own))
            result = judged_taps(plan, ours, made, floors, planted, judged, ours)
            seconds = half - began, time.monotonic() - half, 1
            return result_of(result, plan, planted, str(reference), subject.name, seconds)

        return _settled(run(free[1].rows, "own.h5"), doubt, lambda rows: run(rows, "named.h5"))


def replay_reference(
    subject: Subject,
    port: str | Path,
    *,
    judged: Judged | None = None,
    map: str | Path | None = None,
    progress: Progress = _quiet,
) -> Replay:
    """Run the torch reference ``subject`` with the values of the trace ``port`` forced in."""
    from firstdiff.diff import diff
    from firstdiff.diff.healing import undecided
    from firstdiff.diff.planting import planting
    from firstdiff.diff.weights.table import DIGESTS

    if not is_torch_module(subject.model):
        raise OptionError(
            f"{subject.name or 'the reference'}: a reference replay needs a PyTorch model, this is a "
            f"{type(subject.model).__name__}; for a port give its reference's trace: firstdiff replay REF.h5 SUBJECT"
        )
    from firstdiff.tracer.forced_runs import forced_runs
    from firstdiff.tracer.reference import Reference

    began = time.monotonic()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="firstdiff-")))
        theirs = stack.enter_context(open_trace(port))
        inputs, decoding = trace_inputs(theirs), decoding_of(theirs)
        progress("capturing the reference")
        path, weights = folder / "reference.h5", None if DIGESTS in theirs.tables else False
        capture(
            subject, path, inputs=inputs, steps=decoding or 0, floor=(), verify=False,
            weights=weights, progress=progress,
        )  # fmt: skip
        ours = stack.enter_context(open_trace(path))
        require_elements(theirs)
        free = diff(ours, theirs, map=map)
        dtype = judged_dtype(ours, theirs)
        fitted = fit_inputs(subject, inputs)[0]
        if decoding is None and undecided(free.rows):
            progress("measuring what rounding does to a free run")
            ours = with_free_floor(ours, subject, fitted, dtype, folder)
            free = diff(ours, theirs, map=map)

        call = subject.call if decoding is None else decoding_call(subject, decoding)[1]

        def run(rows: Sequence[Row], name: str) -> Replay:
            plan, half = planting("reference", rows, ours, theirs), time.monotonic()
            taps = plan.keys()
            model = Reference(
                subject.model, call, tensors_of(fitted),
                lambda key: plan.value(taps[key]) if key in taps else None,
            )  # fmt: skip
            (folder / name).mkdir()
            runs = _completed(
                stack.enter_context(
                    forced_runs(
                        model, dtypes=(dtype,), scratch_dir=folder / name, progress=progress
                    )
                ),
                dtype,
                subject.name,
            )
            floors = measured_floors(dtype, runs.native[dtype], runs.conditioning)
            forced = dict.fromkeys(runs.forced, "")
            result = judged_taps(
                plan, runs.truth, theirs, floors, forced, judged or Judged(), theirs
            )
            seconds = half - began, time.monotonic() - half, 3
            return result_of(result, plan, forced, subject.name, str(port), seconds)

        doubt = contested(free, ours, theirs, map)
        return _settled(run(free.rows, "weighed"), doubt, lambda rows: run(rows, "named"))


def _completed(runs: ForcedRuns | str, dtype: str, name: str) -> ForcedRuns:
    """``runs`` that hold what ``dtype`` needs."""
    if isinstance(runs, str) or dtype not in runs.native:
        raise OptionError(
            f"{name}: {runs if isinstance(runs, str) else ' '.join(runs.notes)}; replay the port "
            "instead (firstdiff replay REF.h5 SUBJECT), or compare the traces with firstdiff diff"
        )
    return runs


def _settled(
    weighed: Replay, doubt: Contested | None, again: Callable[[Sequence[Row]], Replay]
) -> Replay:
    """``weighed``, or the replay of the pairs by name where weights and names are in ``doubt`` and names say more."""
    if doubt is None:
        return weighed
    named = again(doubt.named)
    names = doubt.names_win(weighed.rows, named.rows)
    result, first, then = named if names else weighed, weighed.cost, named.cost
    forced, passes = first.forced + then.forced, first.passes + then.passes
    return replace(
        result,
        cost=replace(result.cost, free=first.free, forced=forced, passes=passes),
        notes=(*result.notes, doubt.sentence(names=names)),
    )
