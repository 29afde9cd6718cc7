"""The index: one compound row per activation, as a plain table for h5py and pandas users."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from firstdiff.traces.errors import TraceError
from firstdiff.traces.rows import NUMBERS, TEXTS, activation_of, columns_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from firstdiff.traces.schema import Activation

SKETCH = 64
"""Numbers in a sketch."""

COLUMNS = (
    *("order", "path", "method", "call", "step", "site", "leaf", "class", "dtype", "shape"),
    *("dataset", "offset", "nbytes", "axes", "source"),
    *("count", "nan", "posinf", "neginf", "mean", "rms", "min", "max", "checksum"),
)
"""Columns in the order in which they are written; a reader goes by their names."""

_READ = tuple(name for name in NUMBERS.names or () if name not in ("kind", "sketch", "address"))


def index_table(rows: Sequence[bytes]) -> np.ndarray:
    """The index as a structured array: texts as fixed-length UTF-8, ``count`` -1 where there is no digest."""
    numbers, texts = columns_of(rows)
    found = {
        name: np.array(column, f"S{max(map(len, column), default=0) or 1}")
        for name, column in texts.items()
    }
    found["site"] = np.where(numbers["output"] == 1, b"output", b"input").astype("S6")
    table = np.empty(len(rows), [(name, _kind(name, found)) for name in COLUMNS])
    for name in COLUMNS:
        table[name] = found[name] if name in found else numbers[name]
    return table


def sketch_table(sketches: Sequence[np.ndarray | None]) -> np.ndarray:
    """float64[rows, 64]: the sketches, zero where there is none."""
    nothing = np.zeros(SKETCH)
    rows = [nothing if sketch is None else sketch for sketch in sketches]
    return np.array(rows, "<f8").reshape(len(rows), SKETCH)


def check_columns(dtype: np.dtype) -> None:
    """Raise `TraceError` unless ``dtype`` has the columns of an index."""
    for name in COLUMNS:
        column = dtype.fields.get(name) if dtype.fields else None
        expected = NUMBERS[name].kind if name in _READ else "S"
        if column is None or column[0].kind != expected or column[0].shape:
            raise TraceError(f"The index is damaged: it has no right column {name!r}.")


def read_activations(table: np.ndarray, sketches: np.ndarray | None) -> tuple[Activation, ...]:
    """The rows of an index whose columns were checked. Raises `TraceError` for one that makes no sense."""
    try:
        return tuple(_read(table, sketches))
    except ValueError as error:
        raise TraceError(f"The index is damaged ({error}).") from error


def _read(table: np.ndarray, sketches: np.ndarray | None) -> Iterator[Activation]:
    numbers = [table[name].tolist() for name in _READ if name != "output"]
    texts = [_texts(table[name]) for name in TEXTS]
    found = sketches if sketches is not None else [None] * len(table)
    columns = zip(zip(*numbers, strict=True), zip(*texts, strict=True), strict=True)
    for site, (row, words), sketch in zip(_texts(table["site"]), columns, found, strict=True):
        if site not in ("input", "output"):
            raise ValueError(f"{site!r} is not a site")
        yield activation_of((site == "output", *row[:3], 0, *row[3:]), words, sketch)


def _texts(column: np.ndarray) -> list[str]:
    """The texts of a column; equal ones become one object."""
    found: list[bytes] = column.tolist()
    codes = {text: text.decode() for text in set(found)}
    return [codes[text] for text in found]


def _kind(name: str, texts: dict[str, np.ndarray]) -> Any:
    if name not in texts:
        return NUMBERS[name]
    return h5py.string_dtype("utf-8", texts[name].itemsize)
