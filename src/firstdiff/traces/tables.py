"""Tables: small structured arrays beside the activations, such as noise floors."""

from __future__ import annotations

import json
import re

import numpy as np

from firstdiff.traces.errors import CaptureError, TraceError

_KINDS = "biufcS"
_FORMAT = re.compile(r"[<>|][biufcS]\d{1,9}")


def check_table(name: str, rows: np.ndarray) -> np.ndarray:
    """``rows``, C-contiguous. Raises `CaptureError` unless they are a 1-D structured array of plain fields."""
    if rows.ndim != 1 or not is_plain(rows.dtype):
        raise CaptureError(
            f"Table {name!r}: an array of shape {rows.shape} and dtype {rows.dtype} is no table; "
            "it takes one axis of rows with named fields of plain numbers or fixed-length bytes."
        )
    return np.ascontiguousarray(rows)


def is_plain(dtype: np.dtype) -> bool:
    """Whether every field of a structured dtype is a scalar that is its own bytes."""
    return dtype.fields is not None and all(
        field[0].kind in _KINDS and not field[0].shape for field in dtype.fields.values()
    )


def describe_table(dtype: np.dtype) -> str:
    """The fields as JSON: names, formats, offsets and item size."""
    fields = dict(dtype.fields or {})
    return json.dumps(
        {
            "names": list(fields),
            "formats": [field[0].str for field in fields.values()],
            "offsets": [field[1] for field in fields.values()],
            "itemsize": dtype.itemsize,
        }
    )


def parse_table(text: str) -> np.dtype:
    """The dtype that `describe_table` wrote. Raises `TraceError` when it is none."""
    try:
        fields = json.loads(text)
        names, formats, offsets, itemsize = (
            fields[name] for name in ("names", "formats", "offsets", "itemsize")
        )
        if not all(_FORMAT.fullmatch(kind) for kind in formats):
            raise ValueError("they are not plain")
        if not len(names) == len(formats) == len(offsets):
            raise ValueError("they are not equally many")
        return np.dtype(
            {"names": names, "formats": formats, "offsets": offsets, "itemsize": itemsize}
        )
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise TraceError(f"The fields of a table are damaged ({error}).") from error
