"""`zoom`: one module, function by function, on both sides, given right inputs.

Here runs are made and put in order: the reference looks into that module alone, the port does with the reference's
values planted around it. What the values say is `diff/inside`'s business.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from firstdiff.inner_runs import port_inside, reference_inside
from firstdiff.inputs import trace_inputs
from firstdiff.recording import as_subject, capture
from firstdiff.traces import Trace, open_trace
from firstdiff.traces.errors import OptionError

if TYPE_CHECKING:
    from firstdiff.diff import Diff
    from firstdiff.diff.inside.answer import Zoom
    from firstdiff.models.subject import Subject

Progress = Callable[[str], None]


def zoom(
    reference: Any,
    port: Any,
    module: str | None = None,
    *,
    inputs: str | Path | Mapping[str, Any] | None = None,
    map: str | Path | None = None,
    dtype: str | None = None,
    mode: Literal["jit", "eager"] = "jit",
    exact: bool = False,
    framework: str | None = None,
    attn_implementation: str = "eager",
    trust_remote_code: bool = False,
    progress: Progress = lambda _message: None,
) -> Zoom:
    """Which function inside ``module`` is wrong, in the reference and in the port.

    Args:
        reference: a subject (`hf:DIR`, `file.py:name`, a `Subject`), or its trace captured with `level="function"`
            or `"op"`.
        port: a subject.
        module: path as the reference or the port spells it; None is the place of the first divergence.
        inputs: by keyword, or a `.npz`, `.safetensors` or trace; by default the reference's own.

    Raises:
        OptionError: there is no such module, or ``reference`` is a trace of modules alone.
    """
    from firstdiff.diff.floor import coarser, run_dtype
    from firstdiff.diff.inside.place import paths_of
    from firstdiff.diff.inside.zoomed import zoomed

    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="firstdiff-")))
        progress("loading the port")
        subject = as_subject(port, dtype, framework)
        if _is_trace(reference):
            ours = stack.enter_context(open_trace(reference))
            model = None
        else:
            progress("loading the reference")
            model = as_subject(reference, dtype, None, attn_implementation, trust_remote_code)
            path = folder / "reference.h5"
            progress("recording the reference")
            capture(model, path, inputs=inputs, floor=(), verify=False)
            ours = stack.enter_context(open_trace(path))
        free = _free(ours, subject, folder, map, mode, exact, progress)
        name = _chosen(free, module)
        theirs = stack.enter_context(open_trace(folder / "port.h5"))
        sides = paths_of(free.rows, name, ours, theirs)
        inner = ours
        if model is not None:
            progress(f"recording the reference inside {name or 'the model'}")
            dtype = coarser(run_dtype(ours.activations), run_dtype(theirs.activations))
            inner = stack.enter_context(reference_inside(ours, model, sides[0], folder, dtype))
        else:
            _require_functions(ours)
        progress(f"running the port inside {name or 'the model'}, on right inputs")
        own = stack.enter_context(
            port_inside(subject, free.rows, ours, theirs, sides[1], folder, mode, exact)
        )
        result = zoomed(name, sides, free.rows, inner, own)
        return replace(result, reference=_title(reference), port=_title(port))


def _free(
    ours: Trace,
    subject: Subject,
    folder: Path,
    map: Any,
    mode: str,
    exact: bool,
    progress: Progress,
) -> Diff:
    """The port's free run in ``folder``, compared with the reference."""
    from firstdiff.diff import diff

    progress("recording the port")
    path = folder / "port.h5"
    capture(
        subject, path, inputs=trace_inputs(ours), floor=(), mode=mode, exact=exact, verify=False
    )
    progress("comparing")
    return diff(ours, path, map=map)


def _chosen(free: Diff, module: str | None) -> str:
    """The module in the reference's spelling, without its wrapper; by default that of the first divergence."""
    from firstdiff.diff.inside.place import module_named

    if module is not None:
        return module_named(free.rows, module)
    if free.finding is None:
        raise OptionError(
            f"the traces agree, so there is no module to zoom into; name one. {free.summary}"
        )
    return free.finding.region


def _require_functions(ours: Trace) -> None:
    if not ours.deeper:
        raise OptionError(
            f"{ours.path}: it holds modules only; capture it again with --level function (or op), or name the "
            f"reference itself: firstdiff zoom {ours.header.subject or 'hf:DIR'} ... --inputs {ours.path}"
        )


def _is_trace(side: Any) -> bool:
    return isinstance(side, str | Path) and Path(side).suffix in (".h5", ".hdf5", ".part")


def _title(side: Any) -> str:
    return (
        str(side)
        if isinstance(side, str | Path)
        else getattr(side, "name", "") or type(side).__name__
    )
