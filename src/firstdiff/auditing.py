"""`weights`, the audit of two sets of parameters wherever they are, and `map_modules`, what follows from it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from firstdiff.feeding import choose_inputs, fit_inputs
from firstdiff.inputs import trace_inputs
from firstdiff.recorders import record_jax, recorder_for
from firstdiff.traces import open_trace
from firstdiff.traces.errors import FirstdiffError, OptionError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from firstdiff.diff.weights.audit import Audit
    from firstdiff.diff.weights.match import Side
    from firstdiff.diff.weights.modulemap import ModuleMap
    from firstdiff.inputs import Inputs
    from firstdiff.models.subject import Subject
    from firstdiff.traces.parameters import Parameter

_HDF5 = b"\x89HDF\r\n\x1a\n"


def weights(
    reference: str | Path | Subject | Sequence[Parameter],
    port: str | Path | Subject | Sequence[Parameter],
    *,
    framework: str | None = None,
    progress: Callable[[str], None] = lambda _message: None,
) -> Audit:
    """Look for every parameter of ``reference`` in ``port``, by value, and judge what was found.

    Each side is a safetensors file or folder, a subject (`hf:DIR`, `file.py:name`, or a `Subject`), a trace that
    holds digests of parameters, or parameter records. ``framework`` is the port's, where the guess would be wrong.

    Raises:
        OptionError: a side holds no parameters.
        SubjectError: a subject cannot be loaded, or a file is damaged.
        TraceError: a trace is damaged.
    """
    from firstdiff.diff.weights.audit import audit

    progress("reading the parameters")
    ours, theirs = _load(reference, None), _load(port, framework)
    progress("looking for equal weights")
    return audit(ours.side, theirs.side)


@dataclass(frozen=True)
class _Loaded:
    """One side."""

    side: Sequence[Parameter] | Side
    """Its parameters; of a trace, without values but with fingerprints."""
    modules: tuple[tuple[str, str], ...] = ()
    """Its modules as (path, class), in the order in which they run where that is known; () when nothing tells."""


def _load(
    source: str | Path | Subject | Sequence[Parameter],
    framework: str | None,
    inputs: Inputs | None = None,
) -> _Loaded:
    from firstdiff.models.loading import load_subject
    from firstdiff.models.parameters import modules_of, parameters_of
    from firstdiff.models.subject import Subject

    if isinstance(source, str | Path) and _is_trace(Path(source)):
        return _of_trace(Path(source))
    if isinstance(source, str) and ":" in source and not Path(source).exists():
        source = load_subject(source, framework=framework)
    modules = modules_of(source, _given(source, inputs)) if isinstance(source, Subject) else ()
    return _Loaded(parameters_of(source), modules)


def _given(subject: Subject, inputs: Inputs | None) -> dict[str, Any] | None:
    """Inputs for tracing a JAX ``subject``: those of the other side's trace, or its own."""
    if recorder_for(subject) is not record_jax or not (inputs or subject.inputs):
        return None
    from firstdiff.tracer.jax.inputs import jax_input

    try:
        fitted, _ = fit_inputs(subject, inputs or choose_inputs(subject, None, None, None, None))
    except FirstdiffError:
        return None
    return {name: jax_input(tensor.value, tensor.dtype) for name, tensor in fitted.items()}


def _inputs_of(source: object) -> Inputs | None:
    """The inputs that a trace was made with; None for anything else."""
    if not isinstance(source, str | Path) or not _is_trace(Path(source)):
        return None
    with open_trace(source) as trace:
        return trace_inputs(trace)


def _is_trace(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as handle:
        return handle.read(len(_HDF5)) == _HDF5


def _of_trace(path: Path) -> _Loaded:
    from firstdiff.diff.weights.traced import traced_modules, traced_side

    with open_trace(path) as trace:
        side, modules = traced_side(trace), traced_modules(trace)
    if side is None:
        raise OptionError(
            f"{path}: this trace holds no digests of parameters; give the checkpoint or the subject instead, "
            f"or capture it again"
        )
    return _Loaded(side, modules)


def map_modules(
    reference: str | Path | Subject | Sequence[Parameter],
    port: str | Path | Subject | Sequence[Parameter],
    *,
    framework: str | None = None,
    progress: Callable[[str], None] = lambda _message: None,
) -> ModuleMap:
    """Which module of ``port`` is which of ``reference``: by equal weights, whatever the names, then around those.

    Both sides are as for `weights`. Modules without parameters are mapped where a side tells of them: traces, in the
    order in which they run, PyTorch, NNX, Equinox and Keras models, and whatever runs in JAX where one side is a trace,
    which holds inputs, or the subject has inputs of its own. Between two traces, what is left is paired by equal
    results.

    Raises:
        OptionError, SubjectError, TraceError: as `weights` does.
    """
    from firstdiff.diff.weights.mapbuilder import module_map
    from firstdiff.diff.weights.search import search

    given = _inputs_of(reference) or _inputs_of(port)
    ours, theirs = _load(reference, None, given), _load(port, framework, given)
    progress("looking for equal weights")
    found = search(*(loaded.side for loaded in (ours, theirs)))
    progress("mapping modules")
    result = module_map(found, ours.modules, theirs.modules)
    sides = [s for s in (reference, port) if isinstance(s, str | Path) and _is_trace(Path(s))]
    if len(sides) < 2:
        return result
    from firstdiff.diff.weights.valued import with_values

    with open_trace(sides[0]) as one, open_trace(sides[1]) as other:
        return with_values(result, one, other)
