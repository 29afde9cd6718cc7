"""The contents of a complete trace, read from its HDF5 datasets. The only file that reads HDF5.

HDF5 says where each dataset lies and of which type it is; the bytes are then taken from the mapped file, with every
bound checked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from firstdiff.traces.contents import Contents, TablePlace
from firstdiff.traces.errors import TraceError
from firstdiff.traces.headers import LIMIT, decode_header
from firstdiff.traces.index import SKETCH, check_columns, read_activations
from firstdiff.traces.partial import check_version
from firstdiff.traces.tables import is_plain

if TYPE_CHECKING:
    from firstdiff.traces.mapping import Mapping
    from firstdiff.traces.schema import Activation

HDF5_ERRORS = (
    OSError,
    RuntimeError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    OverflowError,
)
"""What h5py raises for a damaged file: it turns codes of the C library into whichever of these it finds near."""


class CompleteContents(Contents):
    """A finished trace."""

    def __init__(self, file: Mapping) -> None:
        """Read the attributes and the header. Raises `OSError` when HDF5 refuses the file, `TraceError`."""
        self._mapping = file
        self._file = h5py.File(file.path, "r")
        try:
            attributes = _attributes(self._file)
            if attributes.get("format") != b"firstdiff":
                raise TraceError(f"{file.path} is an HDF5 file, but not a trace of firstdiff.")
            check_version(file, int(attributes.get("format_version", 0)))
            self.complete = attributes.get("complete") == 1
            self.header = decode_header(bytes(self._bytes("header")))
        except HDF5_ERRORS as error:
            self.close()
            raise error if isinstance(error, TraceError) else self._damage(error) from error
        self._places: dict[str, tuple[int, int]] = {}

    def activations(self) -> tuple[Activation, ...]:
        return self._activations("index", "sketch")

    def inputs(self) -> dict[str, Activation]:
        found = self._activations("inputs_index", "inputs_sketch")
        return {activation.key.path: activation for activation in found}

    def parameters(self) -> dict[str, Activation]:
        if "parameters_index" not in self._file:
            return {}
        found = self._activations("parameters_index", "")
        return {activation.key.path: activation for activation in found}

    def tables(self) -> dict[str, TablePlace]:
        found: dict[str, TablePlace] = {}

        def visit(name: str, item: Any) -> None:
            if isinstance(item, h5py.Dataset):
                dtype, shape, address = self._describe(item)
                if len(shape) != 1 or not is_plain(dtype):
                    raise TraceError(f"{self._mapping.path}: the table {name!r} is damaged.")
                found[name] = TablePlace(address, dtype, shape[0])

        try:
            if "tables" in self._file:
                self._file["tables"].visititems(visit)
        except HDF5_ERRORS as error:
            raise self._damage(error) from error
        return found

    def locate(self, dataset: str) -> tuple[int, int]:
        place = self._places.get(dataset)
        if place is None:
            place = self._places[dataset] = self._place(dataset)
        return place

    def close(self) -> None:
        try:
            self._file.close()
        except HDF5_ERRORS:
            return

    def _activations(self, index: str, sketch: str) -> tuple[Activation, ...]:
        table = self._array(index, 1)
        check_columns(table.dtype)
        sketches = self._array(sketch, 2) if sketch and sketch in self._file else None
        if sketches is not None and (
            sketches.dtype != np.dtype("<f8") or sketches.shape != (len(table), SKETCH)
        ):
            raise TraceError(f"{self._mapping.path}: the dataset {sketch!r} is damaged.")
        return read_activations(table, sketches)

    def _array(self, name: str, axes: int) -> np.ndarray:
        try:
            dtype, shape, address = self._describe(self._file[name])
        except HDF5_ERRORS as error:
            raise self._damage(error) from error
        if len(shape) != axes:
            raise TraceError(f"{self._mapping.path}: the dataset {name!r} is damaged.")
        return self._mapping.array(address, dtype, shape)

    def _bytes(self, name: str) -> np.ndarray:
        dataset = self._file[name]
        length = dataset.id.get_storage_size()
        if length > LIMIT:
            raise TraceError(f"{self._mapping.path}: a header of {length} bytes is not believable.")
        return self._mapping.array(_address(dataset), np.dtype("u1"), (length,))

    def _place(self, name: str) -> tuple[int, int]:
        try:
            dataset = self._file[name]
            return _address(dataset), dataset.id.get_storage_size()
        except HDF5_ERRORS as error:
            raise self._damage(error) from error

    def _describe(self, dataset: h5py.Dataset) -> tuple[np.dtype, tuple[int, ...], int]:
        """Dtype, shape and address. The dtype is never one of objects, which would make pointers of bytes."""
        dtype: np.dtype = dataset.dtype
        if dtype.hasobject:
            raise TraceError(f"{self._mapping.path}: the dataset {dataset.name!r} is damaged.")
        return dtype, dataset.shape, _address(dataset)

    def _damage(self, error: BaseException) -> TraceError:
        if isinstance(error, TraceError):
            return error
        return TraceError(
            f"{self._mapping.path} is damaged ({error}); try `firstdiff recover {self._mapping.path}`."
        )


def _address(dataset: h5py.Dataset) -> int:
    """Of the dataset's first byte; 0 when it has none. Raises `TraceError` for a layout that cannot be mapped."""
    if not isinstance(dataset, h5py.Dataset):
        raise TraceError("A group stands where a dataset should.")
    address = dataset.id.get_offset()
    if address is None and dataset.size:
        raise TraceError(
            f"The dataset {dataset.name!r} is not contiguous: a trace that was repacked in chunks or compressed cannot "
            "be read. Undo it with `h5repack -l CONTI`."
        )
    return int(address or 0)


def _attributes(file: h5py.File) -> dict[str, Any]:
    """The root's attributes that are numbers or texts of fixed length, of those that a trace has.

    Others are not even read: HDF5 would follow a text of variable length into a heap that has no checksum.
    """
    found = {}
    for name in ("format", "format_version", "complete"):
        if name in file.attrs and file.attrs.get_id(name).dtype.kind in "iuS":
            found[name] = file.attrs[name]
    return found
