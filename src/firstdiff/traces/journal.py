"""The journal: what was committed, in order. It lies inside the HDF5 file, but can be read without HDF5.

A chain of byte datasets `/journal/0`, `/journal/1`, ... Each begins with a head (`HEAD`) and the address of the
next one (`NEXT`), followed by records: a length and a CRC-32 (`FRAME`), the row, padding to a multiple of 8 bytes;
a length of 0 ends them. A record is written after the bytes that it speaks of, so whatever it lists is in the file,
also when the process is killed in the next instant.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple
from zlib import crc32

from firstdiff.traces.container import hdf5_type
from firstdiff.traces.rows import Kind, decode_row
from firstdiff.traces.schema import FORMAT_VERSION

if TYPE_CHECKING:
    from collections.abc import Iterator

    from firstdiff.traces.container import Container
    from firstdiff.traces.schema import Activation

MAGIC = b"\x93firstdiff journal\r\n\x1a\n\0\0"
HEAD = struct.Struct("<24sIIQQ")
"""Magic, format version, CRC-32 of (magic, version, address, size), own address, own size."""
NEXT = struct.Struct("<Q")
"""Address of the next block, 0 while there is none; follows the head and is written later."""
FRAME = struct.Struct("<II")
"""Length of a row and its CRC-32."""
RECORDS = 64
"""Records start this many bytes into a block."""
SMALLEST = 1 << 12
LARGEST = 1 << 20
SEARCHED = 1 << 16
"""The first block lies within this many bytes of the file's start."""


class Record(NamedTuple):
    """A record of the journal, read."""

    kind: Kind
    """What it commits."""
    activation: Activation
    """The array; for an input or a table ``key.path`` is its name, for a table ``source`` its fields as JSON."""
    address: int
    """Where the first byte lies in the file; 0 when there are none."""


class Journal:
    """Appends records to a file that is being written."""

    def __init__(self, container: Container) -> None:
        """Create the first block. Raises `OSError`."""
        self._container = container
        self._blocks = 0
        self._size = SMALLEST // 2
        self._start = self._next = self._end = 0
        self._add(0)

    def append(self, row: bytes) -> None:
        """Commit what ``row`` says. Raises `OSError`."""
        length = len(row)
        after = self._next + FRAME.size + length + -length % 8
        if after > self._end:
            self._add(after - self._next)
            self.append(row)
            return
        record = FRAME.pack(length, crc32(row)) + row
        self._container.pwrite(record, self._next, len(record))
        self._next = after

    def _add(self, needed: int) -> None:
        self._size = max(min(2 * self._size, LARGEST), needed + RECORDS)
        name = f"/journal/{self._blocks}"
        address = self._container.allocate(name, hdf5_type("uint8"), (self._size,))
        # Zeroed, since HDF5 may hand out space that it used before, and so that a disk that fills up has it already.
        block = block_head(address, self._size) + bytes(self._size - HEAD.size)
        self._container.pwrite(block, address, len(block))
        if self._blocks:
            self._container.pwrite(NEXT.pack(address), self._start + HEAD.size, NEXT.size)
        self._start, self._blocks = address, self._blocks + 1
        self._next, self._end = address + RECORDS, address + self._size


def block_head(address: int, size: int, version: int = FORMAT_VERSION) -> bytes:
    """The head of a block."""
    check = crc32(struct.pack("<24sIQQ", MAGIC, version, address, size))
    return HEAD.pack(MAGIC, version, check, address, size)


def find_journal(data: memoryview) -> int | None:
    """Address of the first block in a file's bytes, None when there is none: this file is no trace."""
    start = bytes(data[:SEARCHED])
    found = start.find(MAGIC)
    while found >= 0:
        if _block_size(data, found) is not None:
            return found
        found = start.find(MAGIC, found + 1)
    return None


def journal_version(data: memoryview, address: int) -> int:
    """Format version that the block at ``address`` states."""
    return int(HEAD.unpack_from(data, address)[1])


def read_journal(data: memoryview, address: int) -> Iterator[Record]:
    """The committed records of a file's bytes, from the block at ``address`` on, in order.

    Stops at the first record or block that is not whole: what follows it was never committed, or is cut off.
    """
    seen: set[int] = set()
    while address and address not in seen:
        seen.add(address)
        size = _block_size(data, address)
        if size is None:
            return
        yield from _block_records(data[address + RECORDS : address + size])
        (address,) = NEXT.unpack_from(data, address + HEAD.size)


def _block_records(block: memoryview) -> Iterator[Record]:
    start = 0
    while start + FRAME.size <= len(block):
        length, check = FRAME.unpack_from(block, start)
        body = bytes(block[start + FRAME.size : start + FRAME.size + length])
        if not length or len(body) < length or crc32(body) != check:
            return
        try:
            yield Record(*decode_row(body))
        except ValueError:
            return
        start += FRAME.size + length + -length % 8


def _block_size(data: memoryview, address: int) -> int | None:
    """Bytes of the block at ``address`` that are in the file; None when there is no whole head."""
    if address + RECORDS > len(data):
        return None
    _, version, _, own, size = HEAD.unpack_from(data, address)
    if bytes(data[address : address + HEAD.size]) != block_head(address, size, version):
        return None
    return min(size, len(data) - address) if own == address and size >= RECORDS else None
