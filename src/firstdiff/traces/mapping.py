"""The bytes of a file, mapped for reading. The one place that turns addresses found in a file into memory."""

from __future__ import annotations

import mmap
from math import prod
from pathlib import Path

import numpy as np

from firstdiff.traces.errors import TraceError


class Mapping:
    """A file mapped read-only. Arrays are views into it: nothing is allocated, whatever the file claims."""

    def __init__(self, path: Path) -> None:
        """Raises `OSError` when ``path`` cannot be read, `TraceError` when it is empty."""
        with path.open("rb") as file:
            try:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            except ValueError as error:
                raise TraceError(f"{path} is not a trace: it is empty.") from error
        self.path = path
        self.data = memoryview(self._map)

    def __len__(self) -> int:
        return len(self.data)

    def array(self, address: int, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
        """Read-only array of the bytes from ``address`` on. Raises `TraceError` when they are not all in the file."""
        count = prod(shape)
        if count == 0:
            return _empty(dtype, shape)
        if address <= 0 or address + count * dtype.itemsize > len(self.data):
            raise TraceError(
                f"{self.path}: bytes {address} to {address + count * dtype.itemsize} were asked for, but the file "
                f"has {len(self.data)}: it is damaged or truncated."
            )
        return np.frombuffer(self.data, dtype, count, address).reshape(shape)

    def close(self) -> None:
        """Unmap the file, unless arrays of it are still in use: those stay valid. Idempotent."""
        self.data.release()
        try:
            self._map.close()
        except BufferError:
            return


def _empty(dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    try:
        array = np.empty(shape, dtype)
    except ValueError as error:
        raise TraceError(f"{shape} is not a shape ({error}): the trace is damaged.") from error
    array.flags.writeable = False
    return array
