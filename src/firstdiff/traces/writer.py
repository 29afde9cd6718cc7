"""Writing a trace: each activation is in the file, to stay, when `write` returns."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from firstdiff.traces.digest import digest as digest_of
from firstdiff.traces.draft import Draft, make_room
from firstdiff.traces.dtypes import as_stored, stored_dtype
from firstdiff.traces.errors import CaptureError
from firstdiff.traces.names import describe, input_name, parameter_name, part_of, table_name
from firstdiff.traces.rows import Kind, decode_row, encode_row
from firstdiff.traces.schema import Activation, Key
from firstdiff.traces.tables import check_table, describe_table

if TYPE_CHECKING:
    import os

    import numpy as np

    from firstdiff.traces.schema import Axis, Digest, Header, Place


_ACTIVATION = int(Kind.ACTIVATION)


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

        ``digest_only`` keeps no elements; ``digest=False`` computes no digests of activations. Raises `CaptureError`
        when ``path`` or its part file exists, unless ``overwrite``, or when it cannot be created.
        """
        if digest_only and not digest:
            raise CaptureError(f"{path}: a trace without elements and digests would hold nothing.")
        self.path = Path(path)
        self.part = part_of(self.path)
        self._header = header
        self._digest_only = digest_only
        self._digest = digest
        # Bytes and numbers, no records: the garbage collector would go through them again and again.
        self._written: dict[Key, int] = {}
        self._rows: list[bytes] = []
        self._sketches: list[np.ndarray | None] = []
        self._inputs: dict[str, tuple[bytes, np.ndarray | None]] = {}
        self._parameters: dict[str, bytes] = {}
        self._tables: set[str] = set()
        self._open = False
        make_room(self.path, self.part, overwrite=overwrite)
        try:
            self.part.unlink(missing_ok=True)
            self._draft = Draft(self.part, header)
        except OSError as error:
            self.part.unlink(missing_ok=True)
            raise CaptureError(
                f"{self.part} cannot be created ({error.strerror or error}); "
                "choose another place, or make room."
            ) from error
        self._open = True

    @property
    def count(self) -> int:
        """Activations committed so far."""
        return len(self._rows)

    def order_of(self, key: Key) -> int | None:
        """Execution order of a committed activation, None for a key that was not written."""
        return self._written.get(key)

    def __enter__(self) -> TraceWriter:
        return self

    def __exit__(self, *_: object) -> None:
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
        if not self._open or key in self._written:
            self._refuse(key)
        if value.dtype != stored_dtype(dtype) or not value.flags.c_contiguous:
            value = as_stored(value, dtype, describe(key))
        earlier = self._earlier(same_as, dtype, value.shape) if same_as is not None else None
        if earlier is not None:
            digest, place, address = earlier
        else:
            digest, place, address = None, None, 0
            if not self._digest_only:
                try:
                    place, address = self._draft.keep(key, value, dtype)
                except OSError as error:
                    self._fail(describe(key), error)
            if self._digest:
                digest = digest_of(value, dtype)
        order, shape = len(self._rows), value.shape
        return self._commit(
            Activation(order, key, dtype, shape, class_name, axes, source, digest, place), address
        )

    def write_digest(self, activation: Activation) -> Activation:
        """Commit an activation of which the digest alone is known; returns it as it is in this trace."""
        if not self._open or activation.key in self._written:
            self._refuse(activation.key)
        return self._commit(replace(activation, order=len(self._rows), place=None), 0)

    def write_input(self, name: str, value: np.ndarray, *, dtype: str) -> None:
        """Commit a model input in full, also in a digest-only trace. Raises `CaptureError` like `write`."""
        key = Key(name, "input")
        if not self._open or name in self._inputs:
            self._refuse(key)
        if value.dtype != stored_dtype(dtype) or not value.flags.c_contiguous:
            value = as_stored(value, dtype, describe(key))
        try:
            place, address = self._draft.keep_dataset(input_name(name), value, dtype)
            activation = Activation(
                order=len(self._inputs),
                key=key,
                dtype=dtype,
                shape=value.shape,
                digest=digest_of(value, dtype),
                place=place,
            )
            row = encode_row(Kind.INPUT, activation, address)
            self._draft.commit(row)
        except OSError as error:
            self._fail(f"input {name!r}", error)
        self._inputs[name] = row, activation.digest.sketch if activation.digest else None

    def write_parameter(self, name: str, value: np.ndarray, *, dtype: str) -> None:
        """Commit a parameter of the model in full, also in a digest-only trace. Raises `CaptureError` like `write`."""
        key = Key(name, "input")
        if not self._open or name in self._parameters:
            self._refuse(key)
        value = as_stored(value, dtype, f"parameter {name}")
        try:
            place, address = self._draft.keep_dataset(parameter_name(name), value, dtype)
            order = len(self._parameters)
            found = Activation(order, key, dtype, value.shape, place=place)
            row = encode_row(Kind.PARAMETER, found, address)
            self._draft.commit(row)
        except OSError as error:
            self._fail(f"parameter {name!r}", error)
        self._parameters[name] = row

    def write_table(self, name: str, rows: np.ndarray) -> None:
        """Commit a table: a 1-D structured array of plain numbers and fixed-length bytes.

        ``name`` may have parts, as in `floor/free/bfloat16`. Raises `CaptureError` like `write`.
        """
        key = Key(name, "output")
        if not self._open or name in self._tables:
            self._refuse(key)
        rows = check_table(name, rows)
        try:
            place, address = self._draft.keep_dataset(table_name(name), rows)
            activation = Activation(
                order=len(self._tables),
                key=key,
                dtype="table",
                shape=rows.shape,
                source=describe_table(rows.dtype),
                place=place,
            )
            self._draft.commit(encode_row(Kind.TABLE, activation, address))
        except OSError as error:
            self._fail(f"table {name!r}", error)
        self._tables.add(name)

    def finish(self, header: Header | None = None) -> Path:
        """Write the index, have everything on the disk, and give the file its name, at once; return that.

        ``header`` replaces the first one. Raises `CaptureError` when the file cannot be written; the part file stays.
        """
        if not self._open:
            raise self._closed()
        inputs = self._inputs.values()
        try:
            self._draft.write_index("", self._rows, self._sketches)
            self._draft.write_index("inputs_", [row for row, _ in inputs], [s for _, s in inputs])
            if self._parameters:
                self._draft.write_index("parameters_", list(self._parameters.values()), [])
            if header is not None and header != self._header:
                self._draft.replace_header(header)
            self._draft.publish(self.path)
        except OSError as error:
            self._fail("its end", error)
        self._open = False
        return self.path

    def close(self) -> None:
        """Stop writing without finishing: the part file stays. Idempotent; never raises."""
        if not self._open:
            return
        self._open = False
        try:
            self._draft.close()
        except OSError:
            # The journal has what was committed, whether or not HDF5 could write its last words.
            return

    def _commit(self, activation: Activation, address: int) -> Activation:
        row = encode_row(_ACTIVATION, activation, address)
        try:
            self._draft.commit(row)
        except OSError as error:
            self._fail(describe(activation.key), error)
        self._written[activation.key] = activation.order
        self._rows.append(row)
        self._sketches.append(activation.digest.sketch if activation.digest is not None else None)
        return activation

    def _earlier(
        self, key: Key, dtype: str, shape: tuple[int, ...]
    ) -> tuple[Digest | None, Place | None, int] | None:
        """Digest, place and address of the activation ``key``, when there is one of this dtype and shape."""
        number = self._written.get(key)
        if number is None:
            return None
        _, found, address = decode_row(self._rows[number])
        if (found.dtype, found.shape) != (dtype, shape):
            return None
        digest = found.digest
        if digest is not None:
            digest = replace(digest, sketch=self._sketches[number])
        return digest, found.place, address

    def _closed(self) -> CaptureError:
        return CaptureError(f"{self.part} is closed; nothing more can be written to it.")

    def _refuse(self, key: Key) -> NoReturn:
        if not self._open:
            raise self._closed()
        raise CaptureError(
            f"{describe(key)} was already written to {self.part}; "
            "the keys of a trace are unique: count calls and steps."
        )

    def _fail(self, what: str, error: OSError) -> NoReturn:
        self.close()
        raise CaptureError(
            f"{self.part}: writing {what} failed ({error.strerror or error}). "
            f"{len(self._rows)} activations were committed before and can be read; "
            f"make room, then rescue them with `firstdiff recover {self.part}`."
        ) from error
