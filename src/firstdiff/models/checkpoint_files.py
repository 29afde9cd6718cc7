"""Parameters of safetensors checkpoints: a file, or a folder with one file or shards. Mapped, any dtype, numpy alone.

Apart from `qwen2.safetensors`, which reads what the ports can run: here quantised and integer tensors are welcome.
"""

from __future__ import annotations

import json
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from firstdiff.traces.dtypes import is_known, stored_dtype
from firstdiff.traces.errors import SubjectError
from firstdiff.traces.parameters import Parameter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

_DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2", "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "U64": "uint64",
    "U32": "uint32", "U16": "uint16", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip
_HEADER_LIMIT = 100_000_000
_INDEX = "model.safetensors.index.json"


def is_checkpoint(path: str | Path) -> bool:
    """Whether ``path`` is a safetensors file, an index of shards, or a folder that holds either."""
    path = Path(path)
    if path.is_dir():
        return (path / _INDEX).is_file() or any(path.glob("*.safetensors"))
    return path.is_file() and path.name.endswith((".safetensors", ".safetensors.index.json"))


def checkpoint_parameters(path: str | Path) -> tuple[Parameter, ...]:
    """Every tensor, in the order of the files; values are mapped when they are asked for.

    Raises:
        SubjectError: a file is missing, truncated, or no safetensors.
    """
    found = [parameter for file in _files(Path(path)) for parameter in _tensors(file)]
    if not found:
        raise SubjectError(f"{path}: no tensors in it; is this the right folder?")
    return tuple(found)


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        single = path / "model.safetensors"
        if single.is_file():
            return [single]
        index = path / _INDEX
        return _shards(index) if index.is_file() else sorted(path.glob("*.safetensors"))
    return _shards(path) if path.name.endswith(".json") else [path]


def _shards(index: Path) -> list[Path]:
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        files = [index.parent / name for name in names]
    except (ValueError, KeyError, AttributeError, TypeError):
        raise SubjectError(
            f"{index}: no index of shards (a JSON object with weight_map); copy it again."
        ) from None
    for file in files:
        if not file.is_file():
            raise SubjectError(f"{file}: missing, but {index.name} names it; copy it too.")
    return files


def _tensors(file: Path) -> Iterator[Parameter]:
    size = file.stat().st_size
    with file.open("rb") as handle:
        length = int.from_bytes(handle.read(8), "little")
        if size < 8 or length > min(size - 8, _HEADER_LIMIT):
            raise SubjectError(
                f"{file}: {size} bytes, no complete safetensors header; copy it again."
            )
        text = handle.read(length)
    try:
        header = dict(json.loads(text))
        header.pop("__metadata__", None)
        entries = sorted(header.items(), key=lambda item: item[1]["data_offsets"][0])
        yield from (_parameter(file, name, entry, 8 + length, size) for name, entry in entries)
    except (ValueError, KeyError, AttributeError, TypeError, IndexError) as error:
        if isinstance(error, SubjectError):
            raise
        raise SubjectError(
            f"{file}: its header is not that of a safetensors file; copy it again."
        ) from None


def _parameter(file: Path, name: str, entry: Mapping[str, Any], base: int, size: int) -> Parameter:
    start, end = (base + int(offset) for offset in entry["data_offsets"])
    shape = tuple(int(n) for n in entry["shape"])
    dtype = _DTYPES.get(entry["dtype"], "")
    if not dtype or not is_known(dtype):
        raise SubjectError(
            f"{file}: {name} is stored as {entry['dtype']}, which this version cannot read."
        )
    if end > size:
        raise SubjectError(
            f"{file}: truncated, {name} ends at byte {end} but the file has {size}; copy it again."
        )
    if not base <= start <= end or end - start != prod(shape) * stored_dtype(dtype).itemsize:
        raise SubjectError(
            f"{file}: the bytes of {name} do not make up {entry['dtype']}{list(shape)}."
        )
    return Parameter(name, shape, dtype, _reader(file, dtype, shape, start))


def _reader(file: Path, dtype: str, shape: tuple[int, ...], start: int) -> Callable[[], np.ndarray]:
    """Maps the tensor when it is called; the mapping goes when the array does."""
    stored = stored_dtype(dtype)
    count = prod(shape)

    def read() -> np.ndarray:
        if not count:
            return np.empty(shape, stored)
        # a mapping of its own for each tensor, so that its pages are given back with it
        page = start // _PAGE * _PAGE
        length = start - page + count * stored.itemsize
        mapped = np.memmap(file, mode="r", dtype=np.uint8, offset=page, shape=(length,))
        flat = mapped[start - page :]
        aligned = flat if start % stored.itemsize == 0 else np.array(flat)
        return np.asarray(aligned).view(stored).reshape(shape)

    return read


_PAGE = 1 << 16
