"""Safetensors files with numpy alone: memory-mapped reading, streamed writing, bfloat16 kept.

Apart from the `safetensors` package, whose numpy side knows no bfloat16 and whose writer wants all tensors in
memory at once. Format: 8 bytes little-endian header length, a JSON header, the tensors' bytes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np

from firstdiff.traces.errors import SubjectError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

DTYPES: dict[str, Any] = {
    "float64": np.dtype(np.float64),
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}
_CODES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_HEADER_LIMIT = 100_000_000  # bytes; the limit of the reference implementation


@dataclass(frozen=True)
class Stored:
    """Where one tensor lies."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    """Byte offset in the file."""


class Tensors:
    """The tensors of a checkpoint folder, read one at a time from the mapped files."""

    def __init__(self, folder: str | Path) -> None:
        """Read the headers of `model.safetensors`, or of the shards that `model.safetensors.index.json` names.

        Raises:
            SubjectError: no such folder, no weights in it, or a file that is truncated or no safetensors.
        """
        self.folder = Path(folder)
        self.stored: dict[str, Stored] = {}
        for file in _files(self.folder):
            self.stored |= _header(file)

    def read(self, name: str) -> np.ndarray:
        """The tensor ``name`` as a read-only view of the file, in its own dtype."""
        stored = self.stored[name]
        mapped = np.memmap(stored.file, mode="r", dtype=np.uint8)
        dtype = DTYPES[stored.dtype]
        size = prod(stored.shape) * dtype.itemsize
        flat: np.ndarray = mapped[stored.start : stored.start + size].view(dtype)
        return flat.reshape(stored.shape)


def write(
    file: Path, shapes: Mapping[str, tuple[int, ...]], dtype: str, blocks: Iterable[np.ndarray]
) -> None:
    """Write ``file``: the tensors of ``shapes`` in order, their values streamed as ``blocks`` of any size.

    Memory: one block. The blocks are cast to ``dtype`` and must add up to the shapes.
    """
    code = {name: code for code, name in _CODES.items()}[dtype]
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, shape in shapes.items():
        end = offset + prod(shape) * DTYPES[dtype].itemsize
        header[name] = {"dtype": code, "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with file.open("wb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        for block in blocks:
            out.write(block.astype(DTYPES[dtype]).tobytes())
        if out.tell() != 8 + len(text) + offset:
            raise ValueError(
                f"{file}: {out.tell()} bytes written, the shapes want {8 + len(text) + offset}"
            )


def _files(folder: Path) -> Iterator[Path]:
    if not folder.is_dir():
        raise SubjectError(f"{folder}: no such folder.")
    index = folder / "model.safetensors.index.json"
    single = folder / "model.safetensors"
    if single.is_file():
        yield single
        return
    if not index.is_file():
        raise SubjectError(f"{folder}: no model.safetensors and no {index.name} in it.")
    for name in sorted(set(_shards(index))):
        shard = folder / name
        if not shard.is_file():
            raise SubjectError(f"{shard}: missing, but {index.name} names it.")
        yield shard


def _shards(index: Path) -> list[str]:
    try:
        return [str(shard) for shard in json.loads(index.read_text())["weight_map"].values()]
    except (ValueError, KeyError, AttributeError, TypeError):
        raise SubjectError(
            f"{index}: no index of shards (a JSON object with weight_map)."
        ) from None


def _header(file: Path) -> dict[str, Stored]:
    size = file.stat().st_size
    with file.open("rb") as handle:
        length = int.from_bytes(handle.read(8), "little")
        if size < 8 or length > min(size - 8, _HEADER_LIMIT):
            raise SubjectError(
                f"{file}: {size} bytes, no complete safetensors header; copy it again."
            )
        text = handle.read(length)
    try:
        header = json.loads(text)
        header.pop("__metadata__", None)
        return {
            name: _stored(file, name, entry, 8 + length, size) for name, entry in header.items()
        }
    except (ValueError, KeyError, AttributeError, TypeError):
        raise SubjectError(f"{file}: its header is not that of a safetensors file.") from None


def _stored(file: Path, name: str, entry: Mapping[str, Any], base: int, size: int) -> Stored:
    start, end = (base + int(offset) for offset in entry["data_offsets"])
    shape = tuple(int(n) for n in entry["shape"])
    if entry["dtype"] not in _CODES:
        known = ", ".join(_CODES)
        raise SubjectError(f"{file}: {name} is stored as {entry['dtype']}, the ports read {known}.")
    dtype = _CODES[entry["dtype"]]
    if end > size:
        raise SubjectError(
            f"{file}: truncated, {name} ends at byte {end} but the file has {size}; copy it again."
        )
    if not base <= start <= end or end - start != prod(shape) * DTYPES[dtype].itemsize:
        raise SubjectError(
            f"{file}: the bytes of {name} do not make up {entry['dtype']}{list(shape)}."
        )
    return Stored(file, dtype, shape, start)
