"""Port replay: the port runs with the reference's values planted at every aligned tap, in one jitted pass, without
PyTorch. Apart from `reference_replay.py`, the other way round.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from firstdiff.contested import contested, settled
from firstdiff.decoders import has_cache
from firstdiff.decoding import decoding_of
from firstdiff.inputs import trace_inputs
from firstdiff.planted_runs import run_planted
from firstdiff.recording import capture
from firstdiff.replay_floors import floors_in
from firstdiff.replay_result import Judged, judged_taps, result_of
from firstdiff.traces import open_trace

if TYPE_CHECKING:
    from firstdiff.diff import Diff
    from firstdiff.diff.replayed import Replay
    from firstdiff.diff.row import Row
    from firstdiff.models.subject import Subject


def replay_port(
    reference: str | Path,
    subject: Subject,
    *,
    free: tuple[Path, Diff] | None = None,
    judged: Judged | None = None,
    map: str | Path | None = None,
    mode: str = "jit",
    exact: bool = False,
    progress: Callable[[str], None] = lambda _message: None,
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

        return settled(run(free[1].rows, "own.h5"), doubt, lambda rows: run(rows, "named.h5"))
