"""The part file: a trace on its way. It knows where bytes go and in which order; the writer knows what they mean."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from firstdiff.traces.container import LARGE, Container, hdf5_type
from firstdiff.traces.errors import CaptureError
from firstdiff.traces.headers import encode_header
from firstdiff.traces.index import index_table, sketch_table
from firstdiff.traces.journal import Journal
from firstdiff.traces.names import activation_name
from firstdiff.traces.rows import Kind, encode_row
from firstdiff.traces.schema import FORMAT_VERSION, Activation, Key, Place
from firstdiff.traces.slabs import Slabs

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np

    from firstdiff.traces.schema import Header


class Draft:
    """A trace that is being written. Every failure of the file system or of HDF5 is raised as `OSError`."""

    def __init__(self, path: Path, header: Header) -> None:
        """Create ``path``, which must not exist, with its header."""
        self._container = Container(path)
        try:
            self._journal = Journal(self._container)
            self.commit = self._journal.append
            """Say in the journal that the bytes of a row are there."""
            for name, value in (("format_version", FORMAT_VERSION), ("complete", 0)):
                self._container.set_attribute(name, value)
            self._container.set_attribute("format", b"firstdiff")
            self._place_header("/header", header)
        except BaseException:
            self._container.close()
            raise
        self._slabs = Slabs(self._container)
        self._method = "forward" if header.framework == "torch" else "__call__"

    def keep(self, key: Key, value: np.ndarray, dtype: str) -> tuple[Place, int]:
        """Write an activation's bytes, to its own dataset or to a slab; their place, and address in the file."""
        nbytes = value.nbytes
        if nbytes < LARGE:
            place, address = self._slabs.place(nbytes)
        else:
            name = activation_name(key, self._method)
            address = self._container.allocate(name, hdf5_type(dtype), value.shape)
            place = Place(name, 0, nbytes)
        self._container.pwrite(value.data, address, nbytes)
        return place, address

    def keep_dataset(
        self, name: str, value: np.ndarray, dtype: str | None = None
    ) -> tuple[Place, int]:
        """Write an array to the dataset ``name``, of a logical dtype or its own; its place and address."""
        address = self._container.write(name, value, hdf5_type(dtype) if dtype else None)
        return Place(name, 0, value.nbytes), address

    def replace_header(self, header: Header) -> None:
        """Put ``header`` in the first one's place."""
        self._place_header("/journal/header", header)
        # The first one is kept beside the journal: until the rename, a kill must leave a header.
        self._container.move("/header", "/journal/first_header")
        self._container.move("/journal/header", "/header")

    def write_index(
        self, prefix: str, rows: Sequence[bytes], sketches: Sequence[np.ndarray | None]
    ) -> None:
        """Write `/index` and `/sketch`, or those of the inputs."""
        self._container.write(f"/{prefix}index", index_table(rows))
        if any(sketch is not None for sketch in sketches):
            self._container.write(f"/{prefix}sketch", sketch_table(sketches))

    def publish(self, target: Path) -> None:
        """Have everything on the disk, and rename the file to ``target``. Closes it."""
        self._mark(Kind.END, None, 0)
        self._container.set_attribute("complete", 1)
        self._container.sync()
        if not self._container.is_in_place():
            raise OSError("another process removed or replaced it")
        self._container.close()
        os.replace(self._container.path, target)
        _sync_directory(target.parent)

    def close(self) -> None:
        """Stop writing; the file stays as it is. Idempotent; raises `OSError`."""
        self._container.close()

    def _place_header(self, name: str, header: Header) -> None:
        data = encode_header(header)
        address = self._container.write_text(name, data)
        self._mark(Kind.HEADER, Place(name, 0, len(data)), address)

    def _mark(self, kind: Kind, place: Place | None, address: int) -> None:
        nothing = Activation(order=0, key=Key("", "output"), dtype="", shape=(), place=place)
        self._journal.append(encode_row(kind, nothing, address))


def make_room(path: Path, part: Path, *, overwrite: bool) -> None:
    """Raise `CaptureError` where the trace ``path`` cannot be written, or would replace what exists unasked."""
    for name in (path, part):
        if name.is_dir():
            raise CaptureError(f"{name} is a directory; name a file for the trace.")
    if not path.parent.is_dir():
        raise CaptureError(f"{path.parent} is not a directory; create it first.")
    if not overwrite and path.exists():
        raise CaptureError(f"{path} exists; name another file, or overwrite it (--overwrite).")
    if not overwrite and part.exists():
        raise CaptureError(
            f"{part} is left from a capture that did not finish, or is still being written; "
            f"rescue it with `firstdiff recover {part}`, or overwrite it (--overwrite)."
        )


def _sync_directory(path: Path) -> None:
    """Have a rename on the disk, where directories can be opened at all."""
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
