"""`check`: capture a port with the reference's own inputs, then compare the two traces."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from firstdiff.inputs import trace_inputs
from firstdiff.recording import capture
from firstdiff.traces import open_trace

if TYPE_CHECKING:
    from firstdiff.diff import Diff
    from firstdiff.models.subject import Subject


def check(
    reference: str | Path,
    subject: str | Subject,
    *,
    output: str | Path | None = None,
    map: str | Path | None = None,
    progress: Callable[[str], None] = lambda _message: None,
    **options: Any,
) -> Diff:
    """Run ``subject`` on the inputs of the trace ``reference`` and diff the two.

    ``output`` keeps the port's trace; without it the trace lies in a temporary folder and is removed.
    ``options`` are those of `capture`: dtype, select, mode, exact, framework, verify, force.

    Raises:
        TraceError: ``reference`` is no complete trace.
        SubjectError: the port cannot be loaded or fails on these inputs.
        InputMismatch: the port was given other inputs than the reference.
    """
    from firstdiff.diff import diff

    with open_trace(reference) as trace:
        inputs = trace_inputs(trace)
    with tempfile.TemporaryDirectory(prefix="firstdiff-") as scratch:
        path = Path(output) if output is not None else Path(scratch) / "port.h5"
        progress("capturing the port")
        capture(subject, path, inputs=inputs, floor=(), progress=progress, **options)
        progress("comparing")
        return diff(reference, path, map=map)
