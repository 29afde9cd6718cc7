"""`check`: capture a port with the reference's own inputs, then compare the two traces."""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from firstdiff.decoding import decoding_of
from firstdiff.divergence_zoom import with_zoom
from firstdiff.inputs import trace_inputs
from firstdiff.kept_weights import own_parameters
from firstdiff.recording import as_subject, capture
from firstdiff.traces import open_trace
from firstdiff.traces.errors import FirstdiffError

if TYPE_CHECKING:
    from firstdiff.diff import Diff
    from firstdiff.models.subject import Subject


def check(
    reference: str | Path,
    subject: str | Subject,
    *,
    output: str | Path | None = None,
    map: str | Path | None = None,
    steps: int | None = None,
    replay: bool = True,
    zoom: bool = True,
    progress: Callable[[str], None] = lambda _message: None,
    **options: Any,
) -> Diff:
    """Run ``subject`` on the inputs of the trace ``reference`` and diff the two.

    ``output`` keeps the port's trace; without it the trace lies in a temporary folder and is removed.
    After a divergence the port is run once more with the reference's values planted, unless ``replay`` is false,
    and what else is wrong is said in `Diff.other_faults`. Where the reference's trace holds functions (`level`), one
    more such run looks into the module of the divergence, unless ``zoom`` is false: `Diff.zoom` names the function.
    The weights are compared first: `Diff.audit`. Wrong ones are named as the cause where they explain the divergence.
    Where the reference decodes, the port does too, with the reference's tokens; ``steps`` takes the first ones, 0 none.
    ``options`` are those of `capture`: dtype, select, mode, exact, framework, verify, force.

    Raises:
        TraceError: ``reference`` is no complete trace.
        SubjectError: the port cannot be loaded or fails on these inputs.
        InputMismatch: the port was given other inputs than the reference.
    """
    from firstdiff.diff import diff

    with open_trace(reference) as trace:
        inputs, decoding = trace_inputs(trace), decoding_of(trace, steps)
    named = subject
    if isinstance(subject, str):
        progress("loading the model")
        subject = as_subject(subject, options.pop("dtype", None), options.pop("framework", None))
    with tempfile.TemporaryDirectory(prefix="firstdiff-") as scratch:
        path = Path(output) if output is not None else Path(scratch) / "port.h5"
        progress("capturing the port")
        capture(
            subject,
            path,
            inputs=inputs,
            steps=decoding or 0,
            floor=(),
            progress=progress,
            **options,
        )
        progress("comparing")
        result = diff(reference, path, map=map, parameters=own_parameters(as_subject(subject)))
        result = replace(result, next_step=zoom_command(result, reference, named))
        modes = {name: options[name] for name in ("mode", "exact") if name in options}
        if result.finding is not None and zoom:
            result = with_zoom(result, reference, subject, path, progress=progress, **modes)
        if result.finding is None or not replay:
            return result
        return with_other_faults(result, reference, subject, path, progress=progress, **modes)


def zoom_command(result: Diff, reference: str | Path, subject: object) -> str:
    """The `firstdiff zoom` to run next; empty where nothing diverges, or one side has no name to load it by."""
    finding, header = result.finding, result.reference.header
    if finding is None or finding.where == "input" or not isinstance(subject, str):
        return ""
    module = shlex.quote(finding.region or ".")
    if header.selection.get("level", "module") != "module":
        return f"firstdiff zoom {shlex.quote(str(reference))} {shlex.quote(subject)} {module}"
    if ":" not in header.subject:
        return ""
    names = f"{shlex.quote(header.subject)} {shlex.quote(subject)} {module}"
    return f"firstdiff zoom {names} --inputs {shlex.quote(str(reference))}"


def with_other_faults(
    result: Diff, reference: str | Path, subject: Any, port: Path, **options: Any
) -> Diff:
    """``result``, a divergence of ``subject``, with what a port replay says of further faults."""
    from firstdiff.diff.coverage import coverage_notes
    from firstdiff.diff.faults import listed
    from firstdiff.port_replay import replay_port

    assert result.finding is not None, "without a divergence there are no other faults"
    try:
        found = replay_port(reference, as_subject(subject), free=(port, result), **options)
    except FirstdiffError as error:
        note = f"Other faults were not looked for: {error}"
        return replace(result, notes=(*result.notes, note))
    first = {result.finding.order, *result.finding.repeats}
    others = [fault for fault in found.faults if fault.finding.order not in first]
    if not others and coverage_notes(result.counts, result.port.header):
        return result  # next to nothing was judged: "none" would say too much
    return replace(result, other_faults=listed(others))
