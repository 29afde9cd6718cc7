"""`bisect`: where a port first goes wrong, found in O(log n) runs or readings for n blocks.

A run records one cut or one block; of two traces, the cuts in question and one block are read.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from firstdiff.bisection_runs import SubjectBisection
from firstdiff.bisection_traces import TraceBisection
from firstdiff.diff.align import align
from firstdiff.diff.inputs import check_inputs
from firstdiff.diff.mapping import read_map
from firstdiff.diff.weights.applied import exchanged_modules
from firstdiff.diff.weights.evidence import Weighing, matchers_of, weigh, weigh_model
from firstdiff.feeding import fit_inputs
from firstdiff.inputs import trace_inputs
from firstdiff.kept_weights import own_parameters
from firstdiff.partial_runs import PartialRuns
from firstdiff.recording import as_subject
from firstdiff.traces import open_trace
from firstdiff.traces.errors import OptionError

if TYPE_CHECKING:
    from firstdiff.diff.bisection import Bisection, Step
    from firstdiff.diff.modules import Matcher
    from firstdiff.models.subject import Subject
    from firstdiff.traces import Trace


def bisect(
    reference: str | Path,
    port: str | Path | Subject | Any,
    *,
    map: str | Path | None = None,
    dtype: str | None = None,
    mode: Literal["jit", "eager"] = "jit",
    exact: bool = False,
    framework: str | None = None,
    functions: bool = True,
    on_step: Callable[[Step], None] = lambda _step: None,
    progress: Callable[[str], None] = lambda _message: None,
) -> Bisection:
    """Search the depth of the model for the first fault of ``port``, and for the last one.

    ``port`` is a subject, or a trace of it. A subject is run O(log n) times for n blocks on the reference's inputs,
    recording at most one block's activations at a time: works where a full capture does not fit. Of a trace,
    O(log n) activations at block boundaries are read and those of one block.

    Args:
        reference: its trace, with elements.
        port: the port's trace, or what `check` takes.
        map: TOML file of module pairs.
        dtype: load the port's weights in this dtype.
        mode, exact, framework: as in `check`, for JAX.
        functions: look inside the module that was found, for the function and the line: one more run of the port, and
            one of the reference where its trace holds no functions and its model is a folder on this machine. Of two
            traces, both must have been captured with `level="function"` or `"op"`.
        on_step: is told each question and its answer.
        progress: is told what is going on.

    Raises:
        TraceError: a trace cannot be read.
        SubjectError: the port cannot be loaded or run.
        InputMismatch: the two traces were made from different inputs.
        OptionError: the model has no blocks to search, or the reference holds digests only.
    """
    with open_trace(reference) as ours:
        if isinstance(port, str | Path) and is_trace(port):
            if dtype or framework:
                raise OptionError(
                    f"{port} is a trace: dtype and framework apply to a subject that is run"
                )
            with open_trace(port) as theirs:
                return _traces(ours, theirs, map, on_step, functions)
        if all(a.place is None for a in ours.activations):
            raise OptionError(
                f"{ours.path} holds digests only, so there is nothing to plant in the port; "
                f"capture the reference without --digest, or bisect two traces"
            )
        progress("loading the port")
        subject = as_subject(port, dtype, framework)
        inputs, _ = fit_inputs(subject, trace_inputs(ours))
        with tempfile.TemporaryDirectory(prefix="firstdiff-bisect-") as folder:
            runs = PartialRuns(subject, inputs, Path(folder), mode=mode, exact=exact)
            progress("tracing the port")
            listing = runs.listing()
            weighing = weigh_model(ours, own_parameters(subject), listing)
            pairs = align(
                ours.activations,
                listing,
                path_map=read_map(_path(map)),
                matchers=_matchers(weighing),
            ).pairs
            search = SubjectBisection(
                ours, runs, listing, pairs, on_step, progress, weighing, functions
            )
            return search.search()


def _traces(
    ours: Trace,
    theirs: Trace,
    map: str | Path | None,
    on_step: Callable[[Step], None],
    functions: bool,
) -> Bisection:
    check_inputs(ours, theirs)
    weighing = weigh(ours, theirs)
    pairs = align(
        ours.activations,
        theirs.activations,
        path_map=read_map(_path(map)),
        matchers=_matchers(weighing),
    ).pairs
    return TraceBisection(ours, theirs, pairs, on_step, weighing, functions).search()


def _matchers(weighing: Weighing | str | None) -> tuple[Matcher, ...]:
    """By weights, except for modules whose names say something else: what they do is not known before the search."""
    if not isinstance(weighing, Weighing):
        return matchers_of(None)
    return matchers_of(weighing, exchanged_modules(weighing))


def is_trace(port: str | Path) -> bool:
    """Whether ``port`` names a file, which a subject (`file.py:name`, `hf:DIR`) never does."""
    return Path(port).is_file()


def _path(map: str | Path | None) -> Path | None:
    return None if map is None else Path(map)
