"""What `check` adds after a divergence: the function that is wrong, from a reference trace that holds functions.

Apart from `zooming.py`, which makes every run itself: here both traces are there, and one more run of the port is
enough. It never costs the verdict: what goes wrong becomes a note.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from firstdiff.inner_runs import port_inside
from firstdiff.recording import as_subject
from firstdiff.traces import open_trace
from firstdiff.traces.errors import FirstdiffError

if TYPE_CHECKING:
    from firstdiff.diff import Diff
    from firstdiff.diff.inside.answer import Zoom
    from firstdiff.diff.locate import Finding


def with_zoom(
    result: Diff,
    reference: str | Path,
    subject: Any,
    port: str | Path,
    *,
    progress: Callable[[str], None] = lambda _message: None,
    **options: Any,
) -> Diff:
    """``result``, a divergence of ``subject`` from the trace ``reference``, with the function that is wrong.

    ``port`` is the trace of its free run; ``options`` are `mode` and `exact`. Unchanged where the reference's trace
    holds modules alone, and where the divergence is not in a module's own code: in what the model was given, or in
    weights.
    """
    finding = result.finding
    if finding is None or finding.where == "input" or not result.reference.functions:
        return result
    if result.cause.startswith("weights: "):
        return result
    if step := _step(result, finding):
        return _without(
            result, f"it is in step {step}, they are recorded in the prompt's pass alone"
        )
    where = finding.region or "the model"
    progress(f"running the port once more, looking into {where}, on right inputs")
    try:
        found = _zoomed(result, reference, subject, port, **options)
    except Exception as error:  # the user's model, in a way of ours: the verdict stands without
        kind = "" if isinstance(error, FirstdiffError) else f"{type(error).__name__}: "
        return _without(result, f"{kind}{str(error).partition(chr(10))[0]}".rstrip("."))
    return replace(result, zoom=found) if _says_more(found, result) else result


def _zoomed(
    result: Diff, reference: str | Path, subject: Any, port: str | Path, **options: Any
) -> Zoom:
    from firstdiff.diff.inside.place import paths_of
    from firstdiff.diff.inside.zoomed import zoomed

    assert result.finding is not None, "without a divergence there is nothing to look into"
    began = time.monotonic()
    name, rows = result.finding.region, [row for row in result.rows if row.key.step == 0]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="firstdiff-")))
        ours = stack.enter_context(open_trace(reference))
        theirs = stack.enter_context(open_trace(port))
        sides = paths_of(rows, name, ours, theirs)
        given = as_subject(subject)
        own = stack.enter_context(
            port_inside(given, rows, ours, theirs, sides[1], folder, **options)
        )
        found = zoomed(name, sides, rows, ours, own)
        seconds = time.monotonic() - began
        return replace(found, reference=str(reference), port=given.name, seconds=seconds)


def _says_more(found: Zoom, result: Diff) -> bool:
    """Whether more is known than the module: a function, a line, or between which of its children."""
    assert result.finding is not None, "without a divergence nothing was looked for"
    called = any(spot.caller or spot.line for spot in found.spots)
    return called or result.finding.where != "inside" or not found.spots


def _step(result: Diff, finding: Finding) -> int:
    from firstdiff.diff.locate import row_of

    first = row_of(finding, result.rows)
    return first.key.step if first is not None else 0


def _without(result: Diff, reason: str) -> Diff:
    note = f"The divergence was not followed into functions: {reason}."
    return replace(result, notes=(*result.notes, note))
