"""The HDF5 file while it is written. The only file that creates HDF5 objects.

HDF5 allocates the place of every dataset at once; the bytes are then written by `pwrite`, past HDF5, so that an
array is copied once. Every new dataset is followed by a flush of the metadata: a process that is killed leaves a
file that opens. The format is v108: a newer one marks the file as open, and a kill would leave it locked.
"""

from __future__ import annotations

import os
import re
from functools import cache
from typing import TYPE_CHECKING

import h5py
import numpy as np
from h5py import h5d, h5p, h5s, h5t

from firstdiff.traces.dtypes import NATIVE, stored_dtype

if TYPE_CHECKING:
    from pathlib import Path

ALIGNMENT = 4096
LARGE = 1 << 16
"""Datasets of at least this many bytes start at a multiple of `ALIGNMENT`."""


HDF5_ERRORS = (OSError, RuntimeError, ValueError)
"""What h5py raises when HDF5 cannot write."""


class Container:
    """A new HDF5 file. Every failure of the file system or of HDF5 is raised as `OSError`."""

    def __init__(self, path: Path) -> None:
        """Create ``path``, which must not exist."""
        self.path = path
        try:
            self._file = h5py.File(
                path,
                "x",
                libver=("v108", "v108"),
                alignment_threshold=LARGE,
                alignment_interval=ALIGNMENT,
            )
        except HDF5_ERRORS as error:
            raise failure(error) from error
        self._fd = os.open(path, os.O_WRONLY)
        self.identity = _identity(os.fstat(self._fd))
        self._creation = _creation_properties()
        self._links = _link_properties()

    def set_attribute(self, name: str, value: int | bytes) -> None:
        """Set an attribute of the root group: int64, or text of fixed length.

        Text of variable length would lie in HDF5's global heap, the one structure of the file without a checksum;
        a damaged one makes HDF5 loop for ever.
        """
        kind = h5py.string_dtype("utf-8", len(value)) if isinstance(value, bytes) else np.int64
        try:
            self._file.attrs.create(name, value, dtype=kind)
        except HDF5_ERRORS as error:
            raise failure(error) from error

    def allocate(self, name: str, kind: h5t.TypeID, shape: tuple[int, ...]) -> int:
        """Create the dataset ``name`` and return the address of its first byte; 0 when it has no bytes."""
        space = h5s.create_simple(shape) if shape else h5s.create(h5s.SCALAR)
        try:
            dataset = h5d.create(
                self._file.id, name.encode(), kind, space, self._creation, self._links
            )
            address = dataset.get_offset()
            self._file.flush()
        except HDF5_ERRORS as error:
            raise failure(error) from error
        return int(address or 0)

    def pwrite(self, data: memoryview | bytes, address: int, nbytes: int) -> None:
        """Write the ``nbytes`` bytes of ``data``, a C-contiguous array's memory, at ``address``."""
        written = os.pwrite(self._fd, data, address) if nbytes else 0
        if written != nbytes:
            self._pwrite_rest(data, address, written)

    def _pwrite_rest(self, data: memoryview | bytes, address: int, written: int) -> None:
        """Continue a write that the system did in part: Linux writes at most 2 GiB at once."""
        rest = np.frombuffer(data, np.uint8)
        while written < len(rest):
            written += os.pwrite(self._fd, rest[written:].data, address + written)

    def write(self, name: str, array: np.ndarray, kind: h5t.TypeID | None = None) -> int:
        """Create the dataset ``name`` from an array and return its address. ``kind`` defaults to its own dtype."""
        kind = kind or h5t.py_create(array.dtype, logical=True)
        address = self.allocate(name, kind, array.shape)
        self.pwrite(array.data, address, array.nbytes)
        return address

    def write_text(self, name: str, text: bytes) -> int:
        """Create a scalar dataset that holds UTF-8 ``text`` and return its address."""
        address = self.allocate(name, text_type(len(text)), ())
        self.pwrite(text, address, len(text))
        return address

    def move(self, old: str, new: str) -> None:
        """Rename a dataset; its bytes stay where they are."""
        try:
            self._file.move(old, new)
        except HDF5_ERRORS as error:
            raise failure(error) from error

    def sync(self) -> None:
        """Have everything that was written so far on the disk."""
        try:
            self._file.flush()
        except HDF5_ERRORS as error:
            raise failure(error) from error
        os.fsync(self._fd)

    def is_in_place(self) -> bool:
        """Whether the file still has its name: no other process replaced or removed it."""
        try:
            return _identity(os.stat(self.path)) == self.identity
        except FileNotFoundError:
            return False

    def close(self) -> None:
        """Close the file. Idempotent; raises `OSError` when HDF5 cannot write its metadata."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        try:
            self._file.close()
        except HDF5_ERRORS as error:
            raise failure(error) from error


@cache
def hdf5_type(dtype: str) -> h5t.TypeID:
    """The HDF5 type that shows ``dtype`` to h5py users.

    bfloat16 and float8_e5m2 are HDF5 floats; what else numpy lacks is unsigned bits.
    """
    if dtype == "bfloat16":
        return _float_type(size=2, sign=15, exponent=(7, 8), mantissa=(0, 7), bias=127)
    if dtype == "float8_e5m2":
        return _float_type(size=1, sign=7, exponent=(2, 5), mantissa=(0, 2), bias=15)
    return h5t.py_create(stored_dtype(dtype), logical=dtype in NATIVE)


def text_type(length: int) -> h5t.TypeID:
    """A UTF-8 string of ``length`` bytes."""
    kind = h5t.C_S1.copy()
    kind.set_size(max(length, 1))
    kind.set_cset(h5t.CSET_UTF8)
    kind.set_strpad(h5t.STR_NULLPAD)
    return kind


def failure(error: Exception) -> OSError:
    """The error of the system inside one of HDF5: `No space left on device`, not the chain of calls that met it."""
    found = re.search(r"errno = (\d+), error message = '([^']*)'", str(error))
    if found:
        return OSError(int(found[1]), found[2])
    return error if isinstance(error, OSError) else OSError(str(error))


def _float_type(
    *, size: int, sign: int, exponent: tuple[int, int], mantissa: tuple[int, int], bias: int
) -> h5t.TypeID:
    """An HDF5 float by (position, bits) of its fields. The order of the calls matters: the fields must fit."""
    kind = h5t.IEEE_F16LE.copy()
    kind.set_fields(sign, *exponent, *mantissa)
    kind.set_size(size)
    kind.set_precision(8 * size)
    kind.set_ebias(bias)
    return kind


def _creation_properties() -> h5p.PropDCID:
    properties = h5p.create(h5p.DATASET_CREATE)
    properties.set_layout(h5d.CONTIGUOUS)
    properties.set_alloc_time(h5d.ALLOC_TIME_EARLY)
    properties.set_fill_time(h5d.FILL_TIME_NEVER)
    properties.set_obj_track_times(False)
    return properties


def _link_properties() -> h5p.PropLCID:
    properties = h5p.create(h5p.LINK_CREATE)
    properties.set_create_intermediate_group(True)
    properties.set_char_encoding(h5t.CSET_UTF8)
    return properties


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
