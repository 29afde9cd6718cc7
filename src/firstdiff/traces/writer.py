"""Writing a trace: each activation is in the file, to stay, when `write` returns."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, NoReturn

import numpy as np

from firstdiff.traces.container import LARGE, Container, hdf5_type
from firstdiff.traces.digest import digest as compute_digest
from firstdiff.traces.dtypes import stored_dtype
from firstdiff.traces.errors import CaptureError
from firstdiff.traces.headers import encode_header
from firstdiff.traces.index import index_table, sketch_table
from firstdiff.traces.journal import Journal
from firstdiff.traces.names import activation_name, input_name, table_name
from firstdiff.traces.records import Kind, Record
from firstdiff.traces.schema import FORMAT_VERSION, Activation, Key, Place
from firstdiff.traces.slabs import Slabs
from firstdiff.traces.tables import check_table, describe_table

if TYPE_CHECKING:
    from firstdiff.traces.schema import Axis, Header


class TraceWriter:
    """Writes `PATH.part`, which `finish` renames to `PATH`.

    A context manager: leaving it without `finish` keeps the part file with everything that was committed.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        header: Header,
        *,
        digest_only: bool = False,
        digest: bool = True,
        overwrite: bool = False,
    ) -> None:
        """Create `PATH.part`.

        ``digest_only`` keeps no elements; ``digest=False`` computes no digests. Raises `CaptureError` when ``path``
        or its part file exists, unless ``overwrite``, or when it cannot be created.
        """
        if digest_only and not digest:
            raise CaptureError(
                f"{path}: a trace without elements and without digests holds nothing."
            )
        self.path = Path(path)
        self.part = part_of(self.path)
        self._header = header
        self._digest_only = digest_only
        self._digest = digest
        self._written: dict[Key, tuple[Activation, int]] = {}
        self._inputs: dict[str, Activation] = {}
        self._tables: set[str] = set()
        self._open = True
        self._make_room(overwrite)
        self._start()

    @property
    def count(self) -> int:
        """Activations committed so far."""
        return len(self._written)

    def __enter__(self) -> TraceWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self.close()

    def write(
        self,
        key: Key,
        value: np.ndarray,
        *,
        dtype: str,
        class_name: str = "",
        axes: tuple[Axis, ...] = (),
        source: str = "",
        same_as: Key | None = None,
    ) -> Activation:
        """Commit one activation and return it.

        ``value`` is a storage array: bfloat16 and other dtypes that numpy lacks come as unsigned bits, with ``dtype``
        their logical name. When ``same_as`` names an earlier activation of this dtype and shape, its bytes and
        digest are shared. Raises `CaptureError` for a key that was written before, an array that is no storage of
        ``dtype``, and when the file cannot be written; then what was committed before stays readable.
        """
        self._check_new(key, key in self._written)
        value = _checked(value, dtype, key)
        try:
            shared = self._written.get(same_as) if same_as is not None else None
            if shared is not None and (shared[0].dtype, shared[0].shape) == (dtype, value.shape):
                digest, place, address = shared[0].digest, shared[0].place, shared[1]
            else:
                place, address = self._put(key, value, dtype)
                digest = compute_digest(value, dtype) if self._digest else None
        except OSError as error:
            self._fail(describe(key), error)
        order, shape = len(self._written), value.shape
        activation = Activation(
            order, key, dtype, shape, class_name, axes, source, digest=digest, place=place
        )
        return self._commit(activation, address)

    def write_digest(self, activation: Activation) -> Activation:
        """Commit an activation of which the digest alone is known; returns it as it is in this trace."""
        self._check_new(activation.key, activation.key in self._written)
        return self._commit(replace(activation, order=len(self._written), place=None), 0)

    def _commit(self, activation: Activation, address: int) -> Activation:
        record = Record(Kind.ACTIVATION, activation, address)
        try:
            self._journal.append(record, with_sketch=activation.place is None)
        except OSError as error:
            self._fail(describe(activation.key), error)
        self._written[activation.key] = activation, address
        return activation

    def order_of(self, key: Key) -> int | None:
        """The execution order under which ``key`` was committed, None when it was not: floors are rows by order."""
        written = self._written.get(key)
        return None if written is None else written[0].order

    def write_input(self, name: str, value: np.ndarray, *, dtype: str) -> None:
        """Commit a model input in full, also in a digest-only trace. Raises `CaptureError` like `write`."""
        key = Key(name, "input")
        self._check_new(key, name in self._inputs)
        value = _checked(value, dtype, key)
        try:
            dataset = input_name(name)
            address = self._container.write(dataset, value, hdf5_type(dtype))
            activation = Activation(
                len(self._inputs),
                key,
                dtype,
                value.shape,
                digest=compute_digest(value, dtype),
                place=Place(dataset, 0, value.nbytes),
            )
            self._journal.append(Record(Kind.INPUT, activation, address), with_sketch=True)
        except OSError as error:
            self._fail(f"input {name!r}", error)
        self._inputs[name] = activation

    def write_table(self, name: str, rows: np.ndarray) -> None:
        """Commit a table: a 1-D structured array of plain numbers and fixed-length bytes.

        ``name`` may have parts, as in `floor/free/bfloat16`. Raises `CaptureError` like `write`.
        """
        self._check_new(Key(name, "output"), name in self._tables)
        rows = check_table(name, rows)
        try:
            dataset = table_name(name)
            address = self._container.write(dataset, rows)
            activation = Activation(
                *(len(self._tables), Key(name, "output"), "table", rows.shape),
                source=describe_table(rows.dtype),
                place=Place(dataset, 0, rows.nbytes),
            )
            self._journal.append(Record(Kind.TABLE, activation, address))
        except OSError as error:
            self._fail(f"table {name!r}", error)
        self._tables.add(name)

    def finish(self, header: Header | None = None) -> Path:
        """Write the index, have everything on the disk, and give the file its name, at once; return that.

        ``header`` replaces the first one. Raises `CaptureError` when the file cannot be written; the part file stays.
        """
        self._check_open()
        try:
            self._write_index()
            if header is not None and header != self._header:
                self._replace_header(header)
            self._journal.mark(Kind.END)
            self._container.set_attribute("complete", 1)
            self._container.sync()
            in_place = self._container.is_in_place()
            self._open = False
            self._container.close()
            if not in_place:
                raise OSError("another process removed or replaced it")
            os.replace(self.part, self.path)
            _sync_directory(self.path.parent)
        except OSError as error:
            self._fail("its end", error)
        return self.path

    def close(self) -> None:
        """Stop writing without finishing: the part file stays. Idempotent; never raises."""
        if self._open:
            self._open = False
            # What is in the journal can be read whether or not HDF5 manages to say good-bye.
            try:
                self._container.close()
            except OSError:
                return

    def _make_room(self, overwrite: bool) -> None:
        for path in (self.path, self.part):
            if path.is_dir():
                raise CaptureError(f"{path} is a directory; name a file for the trace.")
        if not overwrite and self.path.exists():
            raise CaptureError(f"{self.path} exists; name another file, or overwrite it (--force).")
        if not overwrite and self.part.exists():
            raise CaptureError(
                f"{self.part} is left from a capture that did not finish, or is still being written. "
                f"Rescue it with `firstdiff recover {self.part}`, or overwrite it (--force)."
            )
        if not self.path.parent.is_dir():
            raise CaptureError(f"{self.path.parent} is not a directory; create it first.")

    def _start(self) -> None:
        data = encode_header(self._header)
        try:
            self.part.unlink(missing_ok=True)
            self._container = Container(self.part)
            self._journal = Journal(self._container)
            self._container.set_attribute("format", "firstdiff")
            self._container.set_attribute("format_version", FORMAT_VERSION)
            self._container.set_attribute("complete", 0)
            self._place_header("/header", data)
        except OSError as error:
            self._open = hasattr(self, "_container")
            self._fail("its header", error)
        self._slabs = Slabs(self._container)
        self._method = "forward" if self._header.framework == "torch" else "__call__"

    def _put(self, key: Key, value: np.ndarray, dtype: str) -> tuple[Place | None, int]:
        if self._digest_only:
            return None, 0
        nbytes = value.nbytes
        if nbytes >= LARGE:
            name = activation_name(key, self._method)
            address = self._container.allocate(name, hdf5_type(dtype), value.shape)
            place = Place(name, 0, nbytes)
        else:
            place, address = self._slabs.place(nbytes)
        self._container.pwrite(value.data, address, nbytes)
        return place, address

    def _write_index(self) -> None:
        for name, activations in (
            ("index", [activation for activation, _ in self._written.values()]),
            ("inputs_index", list(self._inputs.values())),
        ):
            self._container.write(f"/{name}", index_table(activations))
            if name == "index" and self._digest:
                self._container.write("/sketch", sketch_table(activations))
        self._container.write("/inputs_sketch", sketch_table(list(self._inputs.values())))

    def _replace_header(self, header: Header) -> None:
        data = encode_header(header)
        self._place_header("/journal/header", data)
        # The first one is kept beside the journal: until the rename, a kill must leave a header.
        self._container.move("/header", "/journal/first_header")
        self._container.move("/journal/header", "/header")
        self._header = header

    def _place_header(self, name: str, data: bytes) -> None:
        address = self._container.write_text(name, data)
        self._journal.mark(Kind.HEADER, name, address, len(data))

    def _check_open(self) -> None:
        if not self._open:
            raise CaptureError(
                f"{self.part}: the trace is closed; nothing more can be written to it."
            )

    def _check_new(self, key: Key, exists: bool) -> None:
        self._check_open()
        if exists:
            raise CaptureError(
                f"{describe(key)} was already written to {self.part}; "
                "keys of a trace are unique, count calls and steps."
            )

    def _fail(self, what: str, error: OSError) -> NoReturn:
        self.close()
        reason = error.strerror or str(error)
        raise CaptureError(
            f"{self.part}: writing {what} failed ({reason}). {len(self._written)} activations were committed before "
            f"and can be read; make room, then `firstdiff recover {self.part}`."
        ) from error


def part_of(path: Path) -> Path:
    """The name under which ``path`` is written before it is complete."""
    return path.with_name(path.name + ".part")


def describe(key: Key) -> str:
    """A key for people: `layers.0.mlp output logits (method attend, call 1, step 2)`."""
    extra = ", ".join(
        text
        for text, told in (
            (f"method {key.method}", key.method not in ("forward", "__call__")),
            (f"call {key.call}", key.call),
            (f"step {key.step}", key.step),
        )
        if told
    )
    words = [key.path or "(root)", key.site, key.leaf, f"({extra})" if extra else ""]
    return " ".join(word for word in words if word)


def _checked(value: np.ndarray, dtype: str, key: Key) -> np.ndarray:
    """``value`` as it is stored: C-contiguous and little-endian."""
    expected = stored_dtype(dtype)
    if value.dtype != expected:
        if value.dtype != expected.newbyteorder():
            raise CaptureError(
                f"{describe(key)}: an array of {value.dtype} is no storage of {dtype}, which is {expected}."
            )
        value = value.astype(expected)
    return value if value.flags.c_contiguous else np.asarray(value, order="C")


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
