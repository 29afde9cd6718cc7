"""The journal's records and their bytes. Apart from the journal, which knows where they lie but not what they say.

A record is a 8-byte frame (length, CRC-32 of what follows), a fixed part (`FIXED`), the sketch where it is
kept, and nine texts separated by NUL, padded to a multiple of 8 bytes. All numbers are little-endian.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from zlib import crc32

import numpy as np

from firstdiff.traces.errors import CaptureError, TraceError
from firstdiff.traces.schema import Activation, Axis, Digest, Key, Place

if TYPE_CHECKING:
    from collections.abc import Sequence

FRAME = struct.Struct("<II")
FIXED = struct.Struct("<4B4x3q3Q4q4dQ")
"""Kind, whether output, digest, sketch; order, call, step; address, offset, nbytes; the digest."""
SKETCH_BYTES = 64 * 8


class Kind(IntEnum):
    """What a record commits."""

    ACTIVATION = 1
    INPUT = 2
    TABLE = 3
    HEADER = 4
    END = 5


@dataclass(frozen=True)
class Record:
    """One entry of the journal. Inputs and tables use the activation's fields that apply to them."""

    kind: Kind
    """What it commits."""
    activation: Activation
    """The activation; for an input or a table, ``key.path`` is its name, for a table ``source`` its fields as JSON."""
    address: int
    """Where the first byte lies in the file; 0 when there are none."""


_NO_DIGEST = (0, 0, 0, 0, 0.0, 0.0, 0.0, 0.0, 0)


def encode(record: Record, *, with_sketch: bool = False) -> bytes:
    """The bytes of ``record``, frame and padding included. The sketch is kept only on request."""
    activation, digest, place = record.activation, record.activation.digest, record.activation.place
    key = activation.key
    sketch = digest.sketch if digest is not None and with_sketch else None
    numbers = _NO_DIGEST if digest is None else _digest_numbers(digest)
    fixed = FIXED.pack(
        record.kind,
        key.site == "output",
        digest is not None,
        sketch is not None,
        activation.order,
        key.call,
        key.step,
        record.address,
        *((0, 0) if place is None else (place.offset, place.nbytes)),
        *numbers,
    )
    texts = "\0".join(
        (
            key.path,
            key.leaf,
            key.method,
            activation.class_name,
            activation.dtype,
            shape_text(activation.shape),
            "" if place is None else place.dataset,
            axes_text(activation.axes),
            activation.source,
        )
    ).encode()
    if texts.count(0) != 8:
        raise CaptureError(f"{key}: a name holds a NUL character, which a trace cannot store.")
    body = fixed + (b"" if sketch is None else sketch.astype("<f8").tobytes()) + texts
    return FRAME.pack(len(body), crc32(body)) + body + bytes(-len(body) % 8)


def decode(body: bytes) -> Record:
    """The record of a body whose CRC was right. Raises `TraceError` when it makes no sense."""
    try:
        numbers = FIXED.unpack_from(body)
        kind, output, has_digest, has_sketch, order, call, step, *_ = numbers
        address, offset, nbytes, *statistics = numbers[7:]
        start = FIXED.size + (SKETCH_BYTES if has_sketch else 0)
        sketch = np.frombuffer(body[FIXED.size : start], "<f8") if has_sketch else None
        path, leaf, method, class_name, dtype, shape, dataset, axes, source = (
            body[start:].decode().split("\0")
        )
        return Record(
            kind=Kind(kind),
            activation=Activation(
                order=order,
                key=Key(path, "output" if output else "input", leaf, method, call, step),
                dtype=dtype,
                shape=parse_shape(shape),
                class_name=class_name,
                axes=parse_axes(axes),
                source=source,
                digest=digest_of(statistics, sketch) if has_digest else None,
                place=Place(dataset, offset, nbytes) if dataset else None,
            ),
            address=address,
        )
    except (struct.error, ValueError, UnicodeDecodeError) as error:
        raise TraceError(f"A journal record is damaged ({error}).") from error


def shape_text(shape: tuple[int, ...]) -> str:
    """`1,48,896`; a scalar's shape is the empty text."""
    return ",".join(map(str, shape))


def parse_shape(text: str) -> tuple[int, ...]:
    """The shape that `shape_text` wrote. Raises `ValueError` when it is none."""
    if not text:
        return ()
    shape = tuple(map(int, text.split(",")))
    if min(shape) < 0 or len(shape) > 64:
        raise ValueError(f"{text!r} is not a shape")
    return shape


def axes_text(axes: tuple[Axis, ...]) -> str:
    """JSON list of [kind, size, index], empty text for none."""
    if not axes:
        return ""
    return json.dumps([[axis.kind, axis.size, axis.index] for axis in axes], separators=(",", ":"))


@lru_cache(maxsize=4096)
def parse_axes(text: str) -> tuple[Axis, ...]:
    """The axes that `axes_text` wrote. Raises `ValueError` when they are none."""
    if not text:
        return ()
    try:
        return tuple(Axis(kind, int(size), index) for kind, size, index in json.loads(text))
    except (TypeError, RecursionError) as error:
        raise ValueError(f"{text[:80]!r} does not list axes") from error


def digest_of(numbers: Sequence[Any], sketch: np.ndarray | None) -> Digest:
    """The digest of its nine numbers, in the order of its fields."""
    count, nan, posinf, neginf, mean, rms, low, high, checksum = numbers
    return Digest(count, nan, posinf, neginf, mean, rms, low, high, checksum, sketch)


def _digest_numbers(digest: Digest) -> tuple[float, ...]:
    return (
        *(digest.count, digest.nan, digest.posinf, digest.neginf),
        *(digest.mean, digest.rms, digest.min, digest.max, digest.checksum),
    )
