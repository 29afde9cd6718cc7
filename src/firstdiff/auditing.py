"""`weights`: the audit of two sets of parameters, wherever they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from firstdiff.traces import open_trace
from firstdiff.traces.errors import OptionError

if TYPE_CHECKING:
    from firstdiff.diff.weights.audit import Audit
    from firstdiff.diff.weights.match import Side
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

    progress("reading the reference's parameters")
    ours = load_side(reference)
    progress("reading the port's parameters")
    theirs = load_side(port, framework=framework)
    progress("looking for equal weights")
    return audit(ours, theirs)


def load_side(
    source: str | Path | Subject | Sequence[Parameter], *, framework: str | None = None
) -> Sequence[Parameter] | Side:
    """The parameters of one side; of a trace, without values but with fingerprints."""
    from firstdiff.models.loading import load_subject
    from firstdiff.models.parameters import parameters_of

    if isinstance(source, str | Path) and _is_trace(Path(source)):
        return _of_trace(Path(source))
    if isinstance(source, str) and ":" in source and not Path(source).exists():
        return parameters_of(load_subject(source, framework=framework))
    return parameters_of(source)


def _is_trace(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as handle:
        return handle.read(len(_HDF5)) == _HDF5


def _of_trace(path: Path) -> Side:
    from firstdiff.diff.weights.table import read_tables

    with open_trace(path) as trace:
        side = read_tables(trace.table)
    if side is None:
        raise OptionError(
            f"{path}: this trace holds no digests of parameters; give the checkpoint or the subject instead, "
            f"or capture it again"
        )
    return side


