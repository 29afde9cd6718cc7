"""Mapped files: pages that were read are given back, so that memory stays bounded however large a tensor is."""

from __future__ import annotations

import mmap
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

INTERVAL = 1 << 26
"""Bytes after which pages are given back."""


class Pages:
    """The pages of one array, if it is mapped from a file."""

    def __init__(self, array: np.ndarray) -> None:
        self._mapping = _mapping_of(array)
        self._read = 0

    def read(self, nbytes: int) -> None:
        """Note that ``nbytes`` more were read; now and then all pages are given back. They can be read again."""
        self._read += nbytes
        if self._read >= INTERVAL and self._mapping is not None:
            self._read = 0
            self._mapping.madvise(mmap.MADV_DONTNEED)


def _mapping_of(array: np.ndarray) -> mmap.mmap | None:
    """The read-only mapping below ``array``; a writable one would lose what was written."""
    base: object = array
    while base is not None and not isinstance(base, mmap.mmap):
        base = base.obj if isinstance(base, memoryview) else getattr(base, "base", None)
    readonly = not array.flags.writeable and hasattr(mmap, "MADV_DONTNEED")
    return base if readonly and isinstance(base, mmap.mmap) else None
