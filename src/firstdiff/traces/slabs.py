"""Where the bytes of small activations go: packed in slabs, since datasets of their own would cost more."""

from __future__ import annotations

from typing import TYPE_CHECKING

from firstdiff.traces.container import hdf5_type
from firstdiff.traces.schema import Place

if TYPE_CHECKING:
    from firstdiff.traces.container import Container

PITCH = 64
"""Packed activations start at addresses that are multiples of this, so that they can be mapped."""
SMALLEST = 1 << 14
LARGEST = 1 << 24


class Slabs:
    """Byte datasets `/slabs/0`, `/slabs/1`, ... that are filled one after the other.

    A new one is a quarter as large as all before it, from 16 KiB to 16 MiB: at most a fifth of the space of
    small activations is unused.
    """

    def __init__(self, container: Container) -> None:
        self._container = container
        self._slabs = 0
        self._total = 0
        self._name = ""
        self._base = 0
        self._next = 0
        self._end = 0

    def place(self, nbytes: int) -> tuple[Place, int]:
        """Reserve ``nbytes`` bytes: their place, and their address in the file. Raises `OSError`."""
        address = self._next
        if address + nbytes > self._end or not self._slabs:
            self._add(nbytes)
            address = self._next
        self._next = (address + nbytes + PITCH - 1) // PITCH * PITCH
        return Place(self._name, address - self._base, nbytes), address

    def _add(self, nbytes: int) -> None:
        size = max(min(max(self._total // 4, SMALLEST), LARGEST), nbytes + PITCH)
        name = f"/slabs/{self._slabs}"
        self._base = self._container.allocate(name, hdf5_type("uint8"), (size,))
        self._name, self._slabs = name, self._slabs + 1
        self._total += size
        self._next = (self._base + PITCH - 1) // PITCH * PITCH
        self._end = self._base + size
