"""The contents of a trace that was not finished, or is damaged, read from its journal without HDF5."""

from __future__ import annotations

from typing import TYPE_CHECKING

from firstdiff.traces.contents import Contents, TablePlace
from firstdiff.traces.errors import TraceError
from firstdiff.traces.headers import decode_header
from firstdiff.traces.journal import find_journal, journal_version, read_journal
from firstdiff.traces.rows import Kind
from firstdiff.traces.schema import FORMAT_VERSION, Activation, Header
from firstdiff.traces.tables import parse_table

if TYPE_CHECKING:
    from firstdiff.traces.journal import Record
    from firstdiff.traces.mapping import Mapping


class PartialContents(Contents):
    """Everything that was committed and lies in the file."""

    def __init__(self, file: Mapping) -> None:
        """Read the journal. Raises `TraceError` when there is none, or no header."""
        start = find_journal(file.data)
        if start is None:
            raise TraceError(f"{file.path} is not a trace: it holds no journal of firstdiff.")
        check_version(file, journal_version(file.data, start))
        self._file = file
        self._records: dict[Kind, list[Record]] = {kind: [] for kind in Kind}
        self.lost = 0
        """Number of records whose bytes are not in the file: it was cut."""
        for record in read_journal(file.data, start):
            self._keep(record)
        self.complete = bool(self._records[Kind.END])
        self.header = self._read_header()
        self._bases = {
            place.dataset: record.address - place.offset
            for kind in (Kind.ACTIVATION, Kind.INPUT, Kind.PARAMETER)
            for record in self._records[kind]
            if (place := record.activation.place) is not None
        }

    def activations(self) -> tuple[Activation, ...]:
        return tuple(record.activation for record in self._records[Kind.ACTIVATION])

    def inputs(self) -> dict[str, Activation]:
        found = (record.activation for record in self._records[Kind.INPUT])
        return {activation.key.path: activation for activation in found}

    def parameters(self) -> dict[str, Activation]:
        found = (record.activation for record in self._records[Kind.PARAMETER])
        return {activation.key.path: activation for activation in found}

    def tables(self) -> dict[str, TablePlace]:
        return {
            record.activation.key.path: TablePlace(
                record.address,
                parse_table(record.activation.source),
                record.activation.shape[0] if record.activation.shape else 0,
            )
            for record in self._records[Kind.TABLE]
        }

    def locate(self, dataset: str) -> tuple[int, int]:
        address = self._bases[dataset]
        return address, max(len(self._file) - address, 0)

    def _keep(self, record: Record) -> None:
        place = record.activation.place
        if place is not None and record.address + place.nbytes > len(self._file):
            self.lost += 1
        else:
            self._records[record.kind].append(record)

    def _read_header(self) -> Header:
        for record in reversed(self._records[Kind.HEADER]):
            place = record.activation.place
            if place is not None:
                start = record.address
                return decode_header(bytes(self._file.data[start : start + place.nbytes]))
        raise TraceError(
            f"{self._file.path} holds nothing: its capture was stopped before the header was written. Delete it."
        )


def check_version(file: Mapping, version: int) -> None:
    """Raise `TraceError` when ``version`` of the format is newer than this reader's."""
    if version > FORMAT_VERSION:
        raise TraceError(
            f"{file.path} has format version {version}, this firstdiff reads up to {FORMAT_VERSION}; "
            "upgrade firstdiff."
        )
