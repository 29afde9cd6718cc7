"""`weights`, the audit of two sets of parameters wherever they are, and `map_modules`, what follows from it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from firstdiff.traces import open_trace
from firstdiff.traces.errors import OptionError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from firstdiff.diff.weights.audit import Audit
    from firstdiff.diff.weights.match import Side
    from firstdiff.diff.weights.modulemap import ModuleMap
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


def _load(source: str | Path | Subject | Sequence[Parameter], framework: str | None) -> _Loaded:
    from firstdiff.models.loading import load_subject
    from firstdiff.models.parameters import modules_of, parameters_of
    from firstdiff.models.subject import Subject

    if isinstance(source, str | Path) and _is_trace(Path(source)):
        return _of_trace(Path(source))
    if isinstance(source, str) and ":" in source and not Path(source).exists():
        source = load_subject(source, framework=framework)
    modules = modules_of(source) if isinstance(source, Subject) else ()
    return _Loaded(parameters_of(source), modules)


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

    Both sides are as for `weights`. Modules without parameters are mapped where a side tells of them: traces do, in the
    order in which they run, and PyTorch modules.

    Raises:
        OptionError, SubjectError, TraceError: as `weights` does.
    """
    from firstdiff.diff.weights.mapbuilder import module_map
    from firstdiff.diff.weights.search import search

    ours, theirs = _load(reference, None), _load(port, framework)
    progress("looking for equal weights")
    found = search(*(loaded.side for loaded in (ours, theirs)))
    progress("mapping modules")
    return module_map(found, ours.modules, theirs.modules)
