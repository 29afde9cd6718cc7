"""The rows as a table: one line an activation, one column a figure."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from firstdiff.diff.report.format import index_text, layout_text, part_text

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import pandas as pd

    from firstdiff.diff.measure import Measurement
    from firstdiff.diff.row import Row


def _measured(name: str) -> Callable[[Row], Any]:
    return lambda row: None if row.measurement is None else getattr(row.measurement, name)


def _of_origin(name: str) -> Callable[[Row], Any]:
    return lambda row: None if row.origin is None else getattr(row.origin, name)


def _worst(row: Row) -> str:
    found: Measurement | None = row.measurement
    return "" if found is None or found.worst is None else index_text(found.worst)


COLUMNS: dict[str, tuple[str, Callable[[Row], Any]]] = {
    "order": ("int64", lambda row: row.activation.order),
    "name": ("string", lambda row: row.name),
    "path": ("string", lambda row: row.key.path),
    "site": ("string", lambda row: row.key.site),
    "leaf": ("string", lambda row: row.key.leaf),
    "method": ("string", lambda row: row.key.method),
    "call": ("int64", lambda row: row.key.call),
    "step": ("int64", lambda row: row.key.step),
    "side": ("string", lambda row: row.side),
    "class": ("string", lambda row: row.activation.class_name),
    "port_path": ("string", lambda row: "" if row.pair is None else row.pair.port.key.path),
    "part": ("string", lambda row: part_text(row)),
    "evidence": ("string", lambda row: "" if row.pair is None else row.pair.evidence),
    "confidence": ("float64", lambda row: None if row.pair is None else row.pair.confidence),
    "conflict": ("string", lambda row: "" if row.pair is None else row.pair.conflict),
    "verdict": ("string", lambda row: row.verdict.kind),
    "grade": ("string", lambda row: row.verdict.grade),
    "score": ("float64", lambda row: row.verdict.score),
    "healed": ("string", lambda row: row.healed),
    "duplicate_of": ("Int64", lambda row: row.duplicate_of),
    "reference_dtype": ("string", lambda row: "" if row.side == "port" else row.activation.dtype),
    "port_dtype": ("string", lambda row: _port_dtype(row)),
    "shape": ("string", lambda row: index_text(row.activation.shape)),
    "layout": ("string", lambda row: layout_text(row)),
    "floor": ("float64", lambda row: None if row.floor is None else row.floor.relative),
    "floor_source": ("string", lambda row: "" if row.floor is None else row.floor.source),
    "relative_l2": ("float64", _measured("relative_l2")),
    "inherited": ("float64", _of_origin("inherited")),
    "added": ("float64", _of_origin("added")),
    "added_score": ("float64", _of_origin("score")),
    "inherited_from": ("string", lambda row: "" if row.origin is None else row.origin.source),
    "max_abs": ("float64", _measured("max_abs")),
    "worst": ("string", _worst),
    "worst_reference": ("float64", _measured("worst_reference")),
    "worst_port": ("float64", _measured("worst_port")),
    "mean_abs": ("float64", _measured("mean_abs")),
    "one_minus_cosine": ("float64", _measured("one_minus_cosine")),
    "max_ulp": ("float64", _measured("max_ulp")),
    "mismatch": ("float64", _measured("mismatch")),
    "reference_nonfinite": ("Int64", lambda row: _nonfinite(row, "reference_nonfinite")),
    "port_nonfinite": ("Int64", lambda row: _nonfinite(row, "port_nonfinite")),
    "estimated": ("boolean", _measured("estimated")),
    "notes": ("string", lambda row: "; ".join(row.verdict.notes)),
}
"""Columns in order: pandas dtype, and where each comes from."""


def _port_dtype(row: Row) -> str:
    if row.pair is not None:
        return row.pair.port.dtype
    return row.activation.dtype if row.side == "port" else ""


def _nonfinite(row: Row, name: str) -> int | None:
    return None if row.measurement is None else int(getattr(row.measurement, name).count)


def frame(rows: Sequence[Row]) -> pd.DataFrame:
    """A DataFrame with one line a row and the columns of `COLUMNS`; empty cells are missing values."""
    import pandas as pd

    columns = {
        name: pd.Series([read(row) for row in rows], dtype=dtype)
        for name, (dtype, read) in COLUMNS.items()
    }
    return pd.DataFrame(columns)


def write_parquet(rows: Sequence[Row], path: str | Path) -> Path:
    """Write `frame` to ``path``.

    Raises:
        OptionError: the file cannot be written.
    """
    from firstdiff.traces.errors import OptionError

    try:
        frame(rows).to_parquet(path, index=False)
    except OSError as error:
        raise OptionError(
            f"--parquet {path}: cannot be written ({error.strerror or error})"
        ) from error
    return Path(path)
