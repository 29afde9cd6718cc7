"""One array's row: what journal and index both say about it, as bytes.

Made once, when the array is written; the journal frames it, the index collects the columns. A row is its numbers
(`NUMBERS`), the sketch where it is kept, and its texts (`TEXTS`) in UTF-8, separated by NUL. Little-endian.
"""

from __future__ import annotations

import json
import struct
from enum import IntEnum
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from firstdiff.traces.errors import CaptureError
from firstdiff.traces.schema import Activation, Axis, Digest, Key, Place

if TYPE_CHECKING:
    from collections.abc import Sequence


class Kind(IntEnum):
    """What a row commits."""

    ACTIVATION = 1
    INPUT = 2
    TABLE = 3
    HEADER = 4
    END = 5
    PARAMETER = 6


NUMBERS = np.dtype(
    [("kind", "<u4"), ("sketch", "<u4"), ("output", "<i8")]
    + [(name, "<i8") for name in ("order", "call", "step", "address", "offset", "nbytes")]
    + [(name, "<i8") for name in ("count", "nan", "posinf", "neginf")]
    + [(name, "<f8") for name in ("mean", "rms", "min", "max")]
    + [("checksum", "<u8")]
)
"""The numbers of a row.

``sketch`` is 1 where the journal keeps the sketch, which is where it keeps no bytes to compute it from; ``output``
is 1 for that site; ``count`` is -1 where there is no digest.
"""
PACKED = struct.Struct("<2I11q4dQ")
"""The same for one row."""
TEXTS = ("path", "leaf", "method", "class", "dtype", "shape", "dataset", "axes", "source")
"""The texts of a row, in this order. ``dataset`` is empty where no bytes were kept."""

SKETCH_BYTES = 64 * 8

_SKETCH_FLAG = 4
_NO_DIGEST: tuple[int | float, ...] = (-1, 0, 0, 0, 0.0, 0.0, 0.0, 0.0, 0)


def encode_row(kind: int, activation: Activation, address: int) -> bytes:
    """The row of an array whose first byte lies at ``address``, 0 when it has none.

    Inputs and tables use those of an activation's columns that apply to them. Raises `CaptureError` for a text that
    UTF-8 cannot hold, or that has a NUL.
    """
    key, place, digest = activation.key, activation.place, activation.digest
    if place is None:
        dataset, offset, nbytes = "", 0, 0
    else:
        dataset, offset, nbytes = place.dataset, place.offset, place.nbytes
    if digest is None:
        sketch, statistics = None, _NO_DIGEST
    else:
        sketch, statistics = None if place is not None else digest.sketch, _statistics(digest)
    numbers = PACKED.pack(
        kind,
        sketch is not None,
        key.site == "output",
        activation.order,
        key.call,
        key.step,
        address,
        offset,
        nbytes,
        *statistics,
    )
    axes = axes_text(activation.axes) if activation.axes else ""
    text = (
        f"{key.path}\0{key.leaf}\0{key.method}\0{activation.class_name}\0{activation.dtype}\0"
        f"{shape_text(activation.shape)}\0{dataset}\0{axes}\0{activation.source}"
    )
    if text.count("\0") != len(TEXTS) - 1:
        raise CaptureError(f"{key.path!r}: a name holds a NUL, which a trace cannot store.")
    try:
        texts = text.encode()
    except UnicodeEncodeError as error:
        raise CaptureError(f"{key.path!r}: a name is not Unicode text ({error}).") from error
    return numbers + texts if sketch is None else numbers + _sketch_bytes(sketch) + texts


def decode_row(row: bytes) -> tuple[Kind, Activation, int]:
    """What a row commits, the array, and the address of its first byte. Raises `ValueError` for nonsense."""
    if len(row) < PACKED.size:
        raise ValueError("a row is too short")
    kind, has_sketch, *numbers = PACKED.unpack_from(row)
    start = PACKED.size + (SKETCH_BYTES if has_sketch else 0)
    sketch = np.frombuffer(row[PACKED.size : start], "<f8") if has_sketch else None
    texts = row[start:].decode().split("\0")
    return Kind(kind), activation_of(numbers, texts, sketch), numbers[4]


def columns_of(rows: Sequence[bytes]) -> tuple[np.ndarray, dict[str, list[bytes]]]:
    """The numbers of rows, as `NUMBERS`[rows], and their texts by name."""
    size = PACKED.size
    numbers = np.frombuffer(b"".join([row[:size] for row in rows]), NUMBERS)
    texts = [row[size + SKETCH_BYTES * row[_SKETCH_FLAG] :] for row in rows]
    # All in one list: a list a row would keep the garbage collector busy.
    flat = b"\0".join(texts).split(b"\0") if rows else []
    return numbers, {name: flat[place :: len(TEXTS)] for place, name in enumerate(TEXTS)}


def activation_of(
    numbers: Sequence[Any], texts: Sequence[str], sketch: np.ndarray | None
) -> Activation:
    """The activation of a row's numbers from ``output`` on, and texts. Raises `ValueError` for nonsense."""
    output, order, call, step, _, offset, nbytes, count, *statistics = numbers
    path, leaf, method, class_name, dtype, shape, dataset, axes, source = texts
    if order < 0 or call < 0 or step < 0:
        raise ValueError(f"order {order}, call {call} and step {step} are not all counts")
    nan, posinf, neginf, mean, rms, low, high, checksum = statistics
    return Activation(
        order,
        Key(path, "output" if output else "input", leaf, method, call, step),
        dtype,
        parse_shape(shape),
        class_name,
        parse_axes(axes),
        source,
        Digest(count, nan, posinf, neginf, mean, rms, low, high, checksum, sketch)
        if count >= 0
        else None,
        Place(dataset, offset, nbytes) if dataset else None,
    )


@lru_cache(maxsize=1 << 12)
def shape_text(shape: tuple[int, ...]) -> str:
    """`1,48,896`; a scalar's shape is the empty text."""
    return ",".join(map(str, shape))


@lru_cache(maxsize=1 << 12)
def parse_shape(text: str) -> tuple[int, ...]:
    """The shape that `shape_text` wrote. Raises `ValueError` when it is none."""
    if not text:
        return ()
    shape = tuple(map(int, text.split(",")))
    if min(shape) < 0 or len(shape) > 64:
        raise ValueError(f"{text!r} is not a shape")
    return shape


def axes_text(axes: tuple[Axis, ...]) -> str:
    """JSON list of [kind, size, index]."""
    return json.dumps([[axis.kind, axis.size, axis.index] for axis in axes], separators=(",", ":"))


@lru_cache(maxsize=1 << 12)
def parse_axes(text: str) -> tuple[Axis, ...]:
    """The axes that `axes_text` wrote; none for the empty text. Raises `ValueError` for nonsense."""
    if not text:
        return ()
    try:
        return tuple(Axis(kind, int(size), index) for kind, size, index in json.loads(text))
    except (TypeError, OverflowError, RecursionError) as error:
        raise ValueError(f"{text[:80]!r} does not list axes") from error


def _statistics(digest: Digest) -> tuple[int | float, ...]:
    return (
        *(digest.count, digest.nan, digest.posinf, digest.neginf),
        *(digest.mean, digest.rms, digest.min, digest.max, digest.checksum),
    )


def _sketch_bytes(sketch: np.ndarray) -> bytes:
    return sketch.astype("<f8").tobytes()
