"""Two tensors in step, a block at a time, so that memory stays bounded whatever their size."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

BLOCK = 1 << 16
"""Elements in a block: small enough for the second-level cache after widening to float64."""

Block = tuple[int, np.ndarray, np.ndarray]
"""(flat position of the first element in the reference's layout, reference's elements, port's elements)."""


def paired_blocks(reference: np.ndarray, port: np.ndarray, size: int = BLOCK) -> Iterator[Block]:
    """Contiguous 1-D blocks of two arrays of one shape; only a non-contiguous one is copied, block by block."""
    if reference.size == 0:
        return
    if reference.flags.c_contiguous and port.flags.c_contiguous:
        ours, theirs = reference.reshape(-1), port.reshape(-1)
        for start in range(0, ours.size, size):
            yield start, ours[start : start + size], theirs[start : start + size]
        return
    axis, step = _cut(reference.shape, size)
    inner = prod(reference.shape[axis + 1 :])
    for number, outer in enumerate(np.ndindex(reference.shape[:axis])):
        for first in range(0, reference.shape[axis], step):
            index = (*outer, slice(first, first + step))
            start = (number * reference.shape[axis] + first) * inner
            yield start, _flat(reference[index]), _flat(port[index])


def _cut(shape: tuple[int, ...], size: int) -> tuple[int, int]:
    """The axis to slice along, and how many of its entries make about ``size`` elements."""
    inner = 1
    for axis in reversed(range(len(shape))):
        if inner * shape[axis] >= size or axis == 0:
            return axis, max(1, size // max(inner, 1))
        inner *= shape[axis]
    raise AssertionError("a scalar is contiguous")


def _flat(part: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(part).reshape(-1)


@dataclass(frozen=True)
class ValidRows:
    """Which elements of a flattened tensor belong to real tokens."""

    flags: np.ndarray
    """bool[rows]: whether each row is valid."""
    width: int
    """Elements in a row; a row is contiguous."""

    @classmethod
    def of(cls, valid: np.ndarray | None, shape: tuple[int, ...]) -> ValidRows | None:
        """From a bool array that broadcasts to ``shape`` (`padding.valid_elements`); None when all are valid."""
        if valid is None or valid.all() or not shape:
            return None
        padded = valid.reshape((1,) * (len(shape) - valid.ndim) + valid.shape)
        last = max((axis for axis, size in enumerate(padded.shape) if size > 1), default=-1)
        flags = np.broadcast_to(padded.reshape(padded.shape[: last + 1]), shape[: last + 1])
        return cls(np.ascontiguousarray(flags).reshape(-1), prod(shape[last + 1 :]))

    @property
    def count(self) -> int:
        """Number of valid elements."""
        return int(np.count_nonzero(self.flags)) * self.width

    def runs(self, start: int, stop: int) -> Iterator[tuple[int, int, bool]]:
        """The stretches (start, stop, valid) that make up the flat positions ``start`` to ``stop``."""
        first, last = start // self.width, -(-stop // self.width)
        flags = self.flags[first:last]
        turns = np.flatnonzero(flags[1:] != flags[:-1]) + 1
        edges = [start, *((first + turns) * self.width).tolist(), stop]
        for begin, end in pairwise(edges):
            yield begin, end, bool(self.flags[begin // self.width])
