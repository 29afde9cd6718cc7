"""Writing a trace: each activation is in the file, to stay, when `write` returns."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import numpy as np

from firstdiff.traces.digest import digest as digest_of
from firstdiff.traces.draft import Draft
from firstdiff.traces.dtypes import stored_dtype
from firstdiff.traces.errors import CaptureError
from firstdiff.traces.names import describe, input_name, part_of, table_name
from firstdiff.traces.rows import Kind, encode_row
from firstdiff.traces.schema import Activation, Key
from firstdiff.traces.tables import check_table, describe_table

if TYPE_CHECKING:
    import os

    from firstdiff.traces.schema import Axis, Header


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
        self._written: dict[Key, tuple[Activation, int]] = {}
        self._rows: list[bytes] = []
        self._inputs: dict[str, tuple[bytes, np.ndarray | None]] = {}
        self._tables: set[str] = set()
        self._open = False
        self._make_room(overwrite)
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
        found = self._written.get(key)
        return found[0].order if found is not None else None

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
        value = _checked(value, dtype, key)
        digest, place, address = None, None, 0
        shared = self._written.get(same_as) if same_as is not None else None
        if shared is not None and (shared[0].dtype, shared[0].shape) == (dtype, value.shape):
            digest, place, address = shared[0].digest, shared[0].place, shared[1]
        else:
            if not self._digest_only:
                try:
                    place, address = self._draft.keep(key, value, dtype)
                except OSError as error:
                    self._fail(describe(key), error)
            if self._digest:
                digest = digest_of(value, dtype)
        order, shape = len(self._written), value.shape
        return self._commit(
            Activation(order, key, dtype, shape, class_name, axes, source, digest, place), address
        )

    def write_digest(self, activation: Activation) -> Activation:
        """Commit an activation of which the digest alone is known; returns it as it is in this trace."""
        if not self._open or activation.key in self._written:
            self._refuse(activation.key)
        return self._commit(replace(activation, order=len(self._written), place=None), 0)

    def write_input(self, name: str, value: np.ndarray, *, dtype: str) -> None:
        """Commit a model input in full, also in a digest-only trace. Raises `CaptureError` like `write`."""
        key = Key(name, "input")
        if not self._open or name in self._inputs:
            self._refuse(key)
        value = _checked(value, dtype, key)
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
        digests = (activation.digest for activation, _ in self._written.values())
        sketches = [digest.sketch if digest is not None else None for digest in digests]
        inputs = self._inputs.values()
        try:
            self._draft.write_index("", self._rows, sketches)
            self._draft.write_index("inputs_", [row for row, _ in inputs], [s for _, s in inputs])
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
        self._rows.append(row)
        self._written[activation.key] = activation, address
        return activation

    def _make_room(self, overwrite: bool) -> None:
        for path in (self.path, self.part):
            if path.is_dir():
                raise CaptureError(f"{path} is a directory; name a file for the trace.")
        if not self.path.parent.is_dir():
            raise CaptureError(f"{self.path.parent} is not a directory; create it first.")
        if not overwrite and self.path.exists():
            raise CaptureError(
                f"{self.path} exists; name another file, or overwrite it (--overwrite)."
            )
        if not overwrite and self.part.exists():
            raise CaptureError(
                f"{self.part} is left from a capture that did not finish, or is still being written; "
                f"rescue it with `firstdiff recover {self.part}`, or overwrite it (--overwrite)."
            )

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
