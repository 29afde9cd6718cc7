"""Looking into a trace: its header, its activations as a table, the statistics of one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from firstdiff.diff.weights.table import DIGESTS
from firstdiff.traces import Activation, Header, Trace, open_trace
from firstdiff.traces.errors import OptionError

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Listing:
    """What a trace holds, or the part of it that a glob selects."""

    path: Path
    """The file."""
    header: Header
    """How the trace was made."""
    complete: bool
    """False for a capture that was stopped."""
    inputs: dict[str, tuple[str, tuple[int, ...]]]
    """Model inputs: dtype and shape by name."""
    activations: tuple[Activation, ...]
    """The selected activations, in execution order."""
    total: int
    """Activations in the whole trace."""
    digests: int = 0
    """Parameters of the model that the trace keeps digests of."""
    weights: int = 0
    """Parameters that it keeps in full."""

    def frame(self) -> pd.DataFrame:
        """One row an activation: order, what names it, dtype, shape, class, the digest's statistics."""
        import pandas as pd

        return pd.DataFrame([_row(activation) for activation in self.activations])

    def as_dict(self) -> dict[str, Any]:
        """Everything, as plain JSON types."""
        return {
            "path": str(self.path),
            "complete": self.complete,
            "header": asdict(self.header),
            "inputs": {
                name: {"dtype": d, "shape": list(s)} for name, (d, s) in self.inputs.items()
            },
            "total": self.total,
            "weights": {"digests": self.digests, "in_full": self.weights},
            "activations": [_row(activation) for activation in self.activations],
        }


def show(trace: str | Path | Trace, glob: str | None = None) -> Listing:
    """List the activations of ``trace`` whose path, or path and site, matches ``glob``; all without one.

    An unfinished `.part` file is listed too, as far as it was committed.

    Raises:
        TraceError: the file is no trace.
        OptionError: nothing matches.
    """
    with opened(trace) as opened_trace:
        chosen = opened_trace.find(glob) if glob else opened_trace.recorded
        if glob and not chosen:
            raise OptionError(
                f"{opened_trace.path}: no activation matches {glob!r} among {len(opened_trace.recorded)}; "
                f"paths look like {_example(opened_trace)!r}, and * matches any part"
            )
        return Listing(
            path=opened_trace.path,
            header=opened_trace.header,
            complete=opened_trace.complete,
            inputs={name: (i.dtype, tuple(i.shape)) for name, i in opened_trace.inputs.items()},
            activations=tuple(chosen),
            total=len(opened_trace.recorded),
            digests=_digests(opened_trace),
            weights=len(opened_trace.parameters),
        )


@contextmanager
def opened(trace: str | Path | Trace) -> Iterator[Trace]:
    """``trace`` itself, or the file of that name for as long as the block runs."""
    if isinstance(trace, Trace):
        yield trace
        return
    path = Path(trace)
    with open_trace(path, partial=path.suffix == ".part") as found:
        yield found


def _digests(trace: Trace) -> int:
    table = trace.table(DIGESTS)
    return 0 if table is None else len(table)


def _example(trace: Trace) -> str:
    paths = [activation.key.path for activation in trace.activations if activation.key.path]
    return paths[len(paths) // 2] if paths else ""


def _row(activation: Activation) -> dict[str, Any]:
    key, digest = activation.key, activation.digest
    row: dict[str, Any] = {"order": activation.order, **asdict(key)}
    row |= {
        "dtype": activation.dtype,
        "shape": list(activation.shape),
        "class": activation.class_name,
    }
    row |= {"source": activation.source, "axes": [asdict(axis) for axis in activation.axes]}
    if digest is not None:
        statistics = ("count", "nan", "posinf", "neginf", "mean", "rms", "min", "max", "checksum")
        row |= {name: getattr(digest, name) for name in statistics}
    return row
