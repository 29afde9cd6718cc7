"""How a port's elements map onto the reference's: heads split or merged, axes swapped, a batch axis missing.

A layout is two shapes and a permutation: the reference's tensor read as ``shape`` lies element for element on the
port's read as ``port_shape`` and transposed by ``permutation``. Both readings are views, so nothing is copied.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations
from math import prod
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

Shape = tuple[int, ...]
LayoutKind = Literal["identity", "reshape", "permutation", "reshape and permutation", "broadcast"]

_MOST_AXES = 5


@dataclass(frozen=True)
class Layout:
    """One way to lay a port's tensor on the reference's."""

    kind: LayoutKind
    """What it takes."""
    reference_shape: Shape
    """The reference's own shape; the common one when either side is repeated."""
    shape: Shape
    """The shape in which both are compared; its elements are in the reference's flat order."""
    own_shape: Shape
    """The port's own shape."""
    port_shape: Shape
    """The port's shape before it is transposed; its size is that of the port's tensor."""
    permutation: tuple[int, ...]
    """Axes of ``port_shape`` in the order of ``shape``."""
    words: str = ""
    """What people call it: `heads split (2,48,8,32) from (2,48,256)`; empty for the identity."""

    @property
    def name(self) -> str:
        """`words` without the shapes: `heads split`."""
        return self.words.partition(" (")[0].rstrip(":")

    def reference(self, value: np.ndarray) -> np.ndarray:
        """The reference's tensor as a view of ``shape``."""
        return (
            np.broadcast_to(value, self.shape)
            if self.kind == "broadcast"
            else value.reshape(self.shape)
        )

    def port(self, value: np.ndarray) -> np.ndarray:
        """The port's tensor as a view of ``shape``; not contiguous when axes are permuted."""
        view = value.reshape(self.port_shape).transpose(self.permutation)
        return np.broadcast_to(view, self.shape)


def identity(shape: Shape) -> Layout:
    """Both tensors as they are."""
    return Layout("identity", shape, shape, shape, shape, tuple(range(len(shape))))


def broadcast(reference: Shape, port: Shape) -> Layout | None:
    """One side repeated to the other's shape, along axes that it lacks or has once, or None.

    Masks, positions and rotary tables are often kept for one batch row where all are alike.
    """
    try:
        shape = np.broadcast_shapes(reference, port)
    except ValueError:
        return None
    if shape not in (reference, port):
        return None
    padded = (1,) * (len(shape) - len(port)) + port
    words = f"broadcast {show(port)} against {show(reference)}"
    return Layout("broadcast", shape, shape, port, padded, tuple(range(len(padded))), words)


def repeats(stored: np.ndarray, shape: Shape) -> bool:
    """Whether ``stored`` holds one tensor of ``shape`` again and again: its rows are alike where ``shape`` has one."""
    padded = (1,) * (stored.ndim - len(shape)) + shape
    one = stored[tuple(slice(0, size) for size in padded)]
    return bool(np.all((stored == one) | ((stored != stored) & (one != one))))


def candidates(reference: Shape, port: Shape) -> tuple[Layout, ...]:
    """Every layout that fits the shapes, the plainest first; none when the sizes differ.

    Axes of length 1 are ignored. With at most five others: the identity or a plain reshape, every permutation of the
    axes of one side, and those permutations whose axes merge into the other side's.
    """
    if prod(reference) != prod(port):
        return ()
    plain = identity(reference) if reference == port else _reshape(reference, port)
    found = {_canonical(plain.shape, plain.permutation): plain}
    for shape, permutation in _refinements(_solid(reference), _solid(port)):
        key = _canonical(shape, permutation)
        if key not in found:
            found[key] = _transposed(reference, port, shape, permutation)
    return tuple(found.values())


def _solid(shape: Shape) -> Shape:
    return tuple(axis for axis in shape if axis != 1)


def _refinements(reference: Shape, port: Shape) -> Iterator[tuple[Shape, tuple[int, ...]]]:
    """(shape, permutation of the port's axes) for permutations of either side that merge into the other."""
    if len(port) <= _MOST_AXES:
        for order in permutations(range(len(port))):
            shape = tuple(port[axis] for axis in order)
            if _merges(shape, reference):
                yield shape, order
    if len(reference) <= _MOST_AXES:
        for order in permutations(range(len(reference))):
            if _merges(tuple(reference[axis] for axis in order), port):
                yield reference, tuple(order.index(axis) for axis in range(len(order)))


def _merges(fine: Shape, coarse: Shape) -> bool:
    """Whether neighbouring axes of ``fine`` multiply to the axes of ``coarse``."""
    position = 0
    for axis in coarse:
        size = 1
        while size < axis and position < len(fine):
            size *= fine[position]
            position += 1
        if size != axis:
            return False
    return position == len(fine)


def _canonical(shape: Shape, permutation: tuple[int, ...]) -> tuple[Shape, tuple[int, ...]]:
    """The same layout with axes of length 1 dropped and axes that stay neighbours merged."""
    axes = [(axis, size) for axis, size in zip(permutation, shape, strict=True) if size != 1]
    rank = {axis: number for number, axis in enumerate(sorted(axis for axis, _ in axes))}
    merged: list[list[int]] = []
    for axis, size in axes:
        if merged and rank[axis] == merged[-1][1] + 1:
            merged[-1][1] = rank[axis]
            merged[-1][2] *= size
        else:
            merged.append([rank[axis], rank[axis], size])
    firsts = sorted(group[0] for group in merged)
    return tuple(group[2] for group in merged), tuple(firsts.index(group[0]) for group in merged)


def _reshape(reference: Shape, port: Shape) -> Layout:
    words = _reshape_words(reference, port)
    return Layout(
        "reshape", reference, reference, port, reference, tuple(range(len(reference))), words
    )


def _reshape_words(reference: Shape, port: Shape) -> str:
    ours, theirs = _solid(reference), _solid(port)
    if ours == theirs:
        less = len(port) < len(reference)
        return f"{'without' if less else 'with'} an axis of 1: {show(port)} from {show(reference)}"
    if len(theirs) != len(ours) and (_merges(theirs, ours) or _merges(ours, theirs)):
        what = "tokens" if ours[-1] == theirs[-1] else "heads"
        return f"{what} {'split' if len(theirs) > len(ours) else 'merged'} {show(port)} from {show(reference)}"
    return f"reshaped {show(port)} from {show(reference)}"


def _transposed(
    reference: Shape, port: Shape, shape: Shape, permutation: tuple[int, ...]
) -> Layout:
    before = tuple(shape[permutation.index(axis)] for axis in range(len(shape)))
    if _solid(port) == before and _solid(reference) == shape:
        kind: LayoutKind = "permutation"
        words = f"transposed {_own_axes(reference, port, permutation)}"
    else:
        kind = "reshape and permutation"
        more = len(_solid(port)) - len(_solid(reference))
        split = "reshaped" if not more else "heads split" if more > 0 else "heads merged"
        words = f"{split} and transposed {show(port)} from {show(reference)}"
    return Layout(kind, reference, shape, port, before, permutation, words)


def _own_axes(reference: Shape, port: Shape, permutation: tuple[int, ...]) -> str:
    """The permutation over the port's own axes where both sides have equally many, else the two shapes."""
    if len(reference) != len(port):
        return f"{show(port)} from {show(reference)}"
    solid = [axis for axis, size in enumerate(port) if size != 1]
    unit = iter([axis for axis, size in enumerate(port) if size == 1])
    moved = iter([solid[axis] for axis in permutation])
    return show(tuple(next(unit) if size == 1 else next(moved) for size in reference))


def show(shape: tuple[int, ...]) -> str:
    """``(2,48,256)``: a shape without spaces."""
    return f"({','.join(map(str, shape))})"
