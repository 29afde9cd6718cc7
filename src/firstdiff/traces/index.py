"""The index: one compound row per activation, as a plain table for h5py and pandas users."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import h5py
import numpy as np

from firstdiff.traces.errors import TraceError
from firstdiff.traces.records import axes_text, digest_of, parse_axes, parse_shape, shape_text
from firstdiff.traces.schema import Activation, Key, Place

SKETCH = 64
"""Numbers in a sketch."""

_TEXTS: dict[str, Callable[[Activation], str]] = {
    "path": lambda a: a.key.path,
    "method": lambda a: a.key.method,
    "site": lambda a: a.key.site,
    "leaf": lambda a: a.key.leaf,
    "class": lambda a: a.class_name,
    "dtype": lambda a: a.dtype,
    "shape": lambda a: shape_text(a.shape),
    "dataset": lambda a: a.place.dataset if a.place else "",
    "axes": lambda a: axes_text(a.axes),
    "source": lambda a: a.source,
}
_PLACE = ("offset", "nbytes")
_COUNTS = ("count", "nan", "posinf", "neginf")
_STATISTICS = ("mean", "rms", "min", "max")
_ORDER = (
    *(
        "order",
        "path",
        "method",
        "call",
        "step",
        "site",
        "leaf",
        "class",
        "dtype",
        "shape",
        "dataset",
    ),
    *(*_PLACE, "axes", "source", *_COUNTS, *_STATISTICS, "checksum"),
)
_NUMBERS = (
    {"order": "<i8", "call": "<i8", "step": "<i8", "checksum": "<u8"}
    | dict.fromkeys((*_PLACE, *_COUNTS), "<i8")
    | dict.fromkeys(_STATISTICS, "<f8")
)


def index_table(activations: Sequence[Activation]) -> np.ndarray:
    """The index as a structured array: texts as fixed-length UTF-8, ``count`` -1 where there is no digest."""
    texts = {name: [get(a).encode() for a in activations] for name, get in _TEXTS.items()}
    widths = {name: max(map(len, column), default=0) for name, column in texts.items()}
    kinds = _NUMBERS | {
        name: h5py.string_dtype("utf-8", max(width, 1)) for name, width in widths.items()
    }
    table = np.zeros(len(activations), [(name, kinds[name]) for name in _ORDER])
    for name, column in texts.items():
        table[name] = column
    table["order"] = [a.order for a in activations]
    table["call"] = [a.key.call for a in activations]
    table["step"] = [a.key.step for a in activations]
    for name in _PLACE:
        table[name] = [getattr(a.place, name, 0) for a in activations]
    for name in (*_COUNTS, *_STATISTICS, "checksum"):
        absent = -1 if name == "count" else 0
        table[name] = [getattr(a.digest, name, absent) for a in activations]
    return table


def sketch_table(activations: Sequence[Activation]) -> np.ndarray:
    """float64[activations, 64]: the sketches, zero where there is none."""
    table = np.zeros((len(activations), SKETCH), "<f8")
    for row, activation in zip(table, activations, strict=True):
        if activation.digest is not None and activation.digest.sketch is not None:
            row[:] = activation.digest.sketch
    return table


def check_columns(dtype: np.dtype) -> None:
    """Raise `TraceError` unless ``dtype`` has the columns of an index."""
    for name in _ORDER:
        column = dtype.fields.get(name) if dtype.fields else None
        if column is None or column[0].shape or column[0].kind not in _kind(name):
            raise TraceError(f"The index is damaged: it has no right column {name!r}.")


def read_activations(table: np.ndarray, sketches: np.ndarray | None) -> tuple[Activation, ...]:
    """The rows of an index whose columns were checked. Raises `TraceError` for one that makes no sense."""
    try:
        columns = {name: _column(table[name]) for name in _ORDER}
        rows = zip(*columns.values(), strict=True)
        found = sketches if sketches is not None else (None for _ in range(len(table)))
        return tuple(_activation(row, sketch) for row, sketch in zip(rows, found, strict=True))
    except (ValueError, UnicodeDecodeError) as error:
        raise TraceError(f"The index is damaged ({error}).") from error


def _activation(row: Sequence[Any], sketch: np.ndarray | None) -> Activation:
    order, path, method, call, step, site, leaf, class_name, dtype, shape, dataset, *_ = row
    offset, nbytes, axes, source, *statistics = row[11:]
    if site not in ("input", "output"):
        raise ValueError(f"{site!r} is not a site")
    return Activation(
        order,
        Key(path, site, leaf, method, call, step),
        dtype,
        parse_shape(shape),
        class_name,
        parse_axes(axes),
        source,
        digest_of(statistics, sketch) if statistics[0] >= 0 else None,
        Place(dataset, offset, nbytes) if dataset else None,
    )


def _column(values: np.ndarray) -> Iterable[Any]:
    """The Python values of a column; equal texts become one object."""
    found: list[Any] = values.tolist()
    if values.dtype.kind != "S":
        return found
    texts = {text: text.decode() for text in set(found)}
    return [texts[text] for text in found]


def _kind(name: str) -> str:
    return np.dtype(_NUMBERS[name]).kind if name in _NUMBERS else "S"
