"""The journal: what was committed, in order. It lies inside the HDF5 file, but can be read without HDF5.

A chain of byte datasets `/journal/0`, `/journal/1`, ... Each begins with a head (`HEAD`) and the address of the
next one (`NEXT`), followed by records; a length of 0 ends them. A record is written after the bytes that it
speaks of, so whatever it lists is in the file, also when the process is killed in the next instant.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING
from zlib import crc32

from firstdiff.traces.container import hdf5_type
from firstdiff.traces.errors import TraceError
from firstdiff.traces.records import FRAME, Kind, Record, decode, encode
from firstdiff.traces.schema import FORMAT_VERSION, Activation, Key, Place

if TYPE_CHECKING:
    from firstdiff.traces.container import Container

MAGIC = b"\x93firstdiff journal\r\n\x1a\n\0\0"
HEAD = struct.Struct("<24s I I Q Q".replace(" ", ""))
"""Magic, format version, CRC-32 of (magic, version, address, size), own address, own size."""
NEXT = struct.Struct("<Q")
"""Address of the next block, 0 while there is none; follows the head and is written later."""
RECORDS = 64
"""Records start this many bytes into a block."""
SMALLEST = 1 << 12
LARGEST = 1 << 20
SEARCHED = 1 << 16
"""The first block lies within this many bytes of the file's start."""

_NOTHING = Activation(order=0, key=Key("", "output"), dtype="", shape=())


class Journal:
    """Appends records to a file that is being written."""

    def __init__(self, container: Container) -> None:
        """Create the first block. Raises `OSError`."""
        self._container = container
        self._blocks = 0
        self._size = SMALLEST // 2
        self._start = self._next = self._end = 0
        self._add(0)

    def append(self, record: Record, *, with_sketch: bool = False) -> None:
        """Commit ``record``. Raises `OSError`."""
        data = encode(record, with_sketch=with_sketch)
        if self._next + len(data) > self._end:
            self._add(len(data))
        self._container.pwrite(data, self._next, len(data))
        self._next += len(data)

    def mark(self, kind: Kind, name: str = "", address: int = 0, nbytes: int = 0) -> None:
        """Commit a record without an activation: the header's place, or the end."""
        place = Place(name, 0, nbytes) if name else None
        self.append(
            Record(kind, Activation(0, _NOTHING.key, _NOTHING.dtype, (), place=place), address)
        )

    def _add(self, needed: int) -> None:
        self._size = max(min(2 * self._size, LARGEST), needed + RECORDS)
        address = self._container.allocate(
            f"/journal/{self._blocks}", hdf5_type("uint8"), (self._size,)
        )
        # Zeroed, since HDF5 may hand out space that it used before, and to have it on a disk that fills up.
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
            yield decode(body)
        except TraceError:
            return
        start += FRAME.size + length + -length % 8


def _block_size(data: memoryview, address: int) -> int | None:
    """Bytes of the block at ``address`` that are in the file; None when there is no whole head."""
    if address < 0 or address + RECORDS > len(data):
        return None
    _, version, _, own, size = HEAD.unpack_from(data, address)
    if bytes(data[address : address + HEAD.size]) != block_head(address, size, version):
        return None
    return min(size, len(data) - address) if own == address and size >= RECORDS else None
