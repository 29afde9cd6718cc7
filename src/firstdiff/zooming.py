"""`zoom`: one module, function by function, on both sides, given right inputs.

Here runs are made and put in order: the reference looks into that module alone, the port does with the reference's
values planted around it. What the values say is `diff/inside`'s business.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from firstdiff.inputs import trace_inputs
from firstdiff.planted_runs import run_planted
from firstdiff.recording import as_subject, capture
from firstdiff.tracer.selection import Selection
from firstdiff.traces import Trace, open_trace
from firstdiff.traces.errors import OptionError
from firstdiff.traces.padding import padding_mask

if TYPE_CHECKING:
    from firstdiff.diff import Diff
    from firstdiff.diff.inside.answer import Zoom
    from firstdiff.diff.inside.examine import Handed, Scope
    from firstdiff.diff.row import Row
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
        name = _module_name(free, module)
        inner = ours
        if model is not None:
            progress(f"recording the reference inside {name or 'the model'}")
            inner = stack.enter_context(_looked_into(ours, model, name, free, folder))
        elif not ours.deeper:
            raise OptionError(
                f"{ours.path}: it holds modules only; capture it again with --level function (or op), or name the "
                f"reference itself: firstdiff zoom {ours.header.subject or 'hf:DIR'} ... --inputs {ours.path}"
            )
        theirs = stack.enter_context(open_trace(folder / "port.h5"))
        rows = free.rows
        sides = _paths(rows, name, ours, theirs)
        progress(f"running the port inside {name or 'the model'}, on right inputs")
        own = stack.enter_context(
            open_trace(_planted(subject, rows, ours, theirs, sides[1], folder, mode, exact))
        )
        result = _examined(name, sides, rows, inner, own)
        return replace(result, module=name, reference=_title(reference), port=_title(port))


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


def _module_name(free: Diff, module: str | None) -> str:
    """The module in the reference's spelling, without its wrapper. Raises `OptionError` when there is none."""
    if module is None:
        if free.finding is None:
            raise OptionError(
                f"the traces agree, so there is no module to zoom into; name one. {free.summary}"
            )
        return free.finding.region
    found = {row.name: row for row in free.rows if row.side != "port"}
    for row in found.values():
        paths = [row.name, row.key.path]
        if row.pair is not None:
            paths.append(row.pair.port.key.path)
        if module in paths or (module in (".", "model") and not row.name):
            return row.name
    some = ", ".join([name for name in found if name][:4])
    raise OptionError(f"{module}: no aligned module has this path; there are {some}")


def _paths(
    rows: Sequence[Row], name: str, ours: Trace, theirs: Trace
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Paths of the module ``name`` in both traces; of the model itself also those of its wrappers."""
    from firstdiff.diff.names import wrapper_prefix

    if not name:
        prefixes = [
            wrapper_prefix(a.key.path for a in t.activations).rstrip(".") for t in (ours, theirs)
        ]
        roots = [_root(t) for t in (ours, theirs)]
        return tuple(tuple(dict.fromkeys(("", p, r))) for p, r in zip(prefixes, roots, strict=True))  # type: ignore[return-value]  # two of them
    pairs = [row.pair for row in rows if row.name == name and row.pair is not None]
    return (
        tuple(dict.fromkeys(pair.reference.key.path for pair in pairs)),
        tuple(dict.fromkeys(pair.port.key.path for pair in pairs)),
    )


def _root(trace: Trace) -> str:
    """Path of the root module, which goes by its class name where the call does more than call it."""
    tops = {a.key.path: a.class_name for a in trace.activations if "." not in a.key.path}
    return next((path for path, name in tops.items() if path and path == name), "")


def _looked_into(ours: Trace, model: Subject, name: str, free: Diff, folder: Path) -> Trace:
    """The reference once more, looking into the module."""
    with open_trace(folder / "port.h5") as theirs:
        paths = _paths(free.rows, name, ours, theirs)[0]
    path = folder / "inside.h5"
    capture(
        model, path, inputs=trace_inputs(ours), floor=(), verify=False, level="op",
        inside=tuple(map(escape, paths)),
    )  # fmt: skip
    return open_trace(path)


def _planted(
    subject: Subject, rows: Sequence[Row], ours: Trace, theirs: Trace, paths: Sequence[str],
    folder: Path, mode: str, exact: bool,
) -> Path:  # fmt: skip
    """The port with the reference's values planted, looking into the module."""
    from firstdiff.diff.planting import planting

    selection = Selection(level="op", inside=tuple(map(escape, paths)))
    plan = planting("port", rows, ours, theirs)
    path = folder / "own.h5"
    run_planted(subject, trace_inputs(ours), plan, path, mode, exact, selection=selection)
    return path


def _examined(
    name: str,
    sides: tuple[tuple[str, ...], tuple[str, ...]],
    rows: Sequence[Row],
    ours: Trace,
    own: Trace,
) -> Zoom:
    from firstdiff.diff.floor import coarser, run_dtype
    from firstdiff.diff.inside.examine import Scope, examine
    from firstdiff.diff.inside.values import tolerance_of

    reference, port = Scope(ours, sides[0]), Scope(own, sides[1])
    dtype = coarser(run_dtype(ours.activations), run_dtype(own.activations))
    padding = padding_mask({key: ours.input_values(key) for key in ours.inputs})
    tolerance = tolerance_of(dtype)
    chosen = list(_handed(name, rows, ours, own))
    notes = list(_notes(reference, port))
    result = examine(reference, port, [h for h, healed in chosen if not healed], tolerance, padding)
    if not result.spots:
        result = examine(reference, port, [h for h, healed in chosen], tolerance, padding)
        if result.spots:
            notes.append("what differs has no effect on what follows")
    return replace(result, notes=tuple(notes))


def _handed(
    name: str, rows: Sequence[Row], ours: Trace, own: Trace
) -> Iterator[tuple[Handed, bool]]:
    """What the module's own code hands to its children and returns, in execution order, and whether it heals."""
    from firstdiff.diff.inside.examine import Handed, parent

    there = {a.key: a for a in own.activations}
    here = {a.key: a for a in ours.activations}
    for row in rows:
        if row.pair is None or row.duplicate_of is not None:
            continue
        given = row.key.site == "input" and row.name != name and parent(row.name) == name
        if not (given or (row.name == name and row.key.site == "output")):
            continue
        mine, value = here.get(row.pair.reference.key), there.get(row.pair.port.key)
        if mine is not None and value is not None:
            child = row.name.removeprefix(f"{name}.") if name else row.name
            label = f"{child} {row.label}" if given else f"its {row.label}"
            yield Handed(mine, value, label), bool(row.healed)


def _notes(reference: Scope, port: Scope) -> Iterator[str]:
    for side, scope in (("reference", reference), ("port", port)):
        if not scope.inner:
            yield f"the {side} runs no function and no operation of its own in this module"
    if not any(a.key.level == "op" for a in reference.inner):
        yield (
            "the reference's trace holds functions, no operations: a value that it computes between two of them "
            "cannot be matched; capture it with --level op for more"
        )


def _is_trace(side: Any) -> bool:
    return isinstance(side, str | Path) and Path(side).suffix in (".h5", ".hdf5", ".part")


def _title(side: Any) -> str:
    return (
        str(side)
        if isinstance(side, str | Path)
        else getattr(side, "name", "") or type(side).__name__
    )
