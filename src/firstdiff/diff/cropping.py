"""One side longer along one axis: a cache of fixed length, a batch filled up. Which stretch is the other side's.

The rest has to be filler, one value throughout; where it is not, the tensors have different shapes, and what they
share is only a hint.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from firstdiff.traces import digest
from firstdiff.traces.part import Cut, part_of

if TYPE_CHECKING:
    from firstdiff.diff.align import Pair
    from firstdiff.traces import Trace
    from firstdiff.traces.schema import Activation

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Crop:
    """A pair of which one side was cut down to the other's size."""

    pair: Pair
    """With the longer side's part in its place."""
    filler: bool
    """Whether what was cut off is one value throughout."""
    words: str
    """`[:, :, 0:12] of the port`."""


def crops(pair: Pair, reference: Trace, port: Trace) -> Iterator[Crop]:
    """Every stretch along one axis that leaves as many elements as the other side has: the first, then the last."""
    sizes = prod(pair.reference.shape), prod(pair.port.shape)
    if sizes[0] == sizes[1] or not all(sizes):
        return
    if None in (pair.reference.place, pair.port.place):
        return
    longer = "reference" if sizes[0] > sizes[1] else "port"
    trace = reference if longer == "reference" else port
    whole, other = (
        (pair.reference, pair.port) if longer == "reference" else (pair.port, pair.reference)
    )
    for cut in _cuts(whole.shape, other.shape):
        stored = trace.stored(whole)
        part = _part(whole, cut, stored)
        made = (
            replace(pair, reference=part) if whole is pair.reference else replace(pair, port=part)
        )
        words = f"{cut.words} of the {longer}"
        yield Crop(made, _is_filler(stored, cut), words)


def _cuts(whole: Shape, other: Shape) -> Iterator[Cut]:
    for axis in reversed(range(len(whole))):
        around = prod(whole) // whole[axis]
        length, rest = divmod(prod(other), around)
        if rest or not 0 < length < whole[axis] or length not in (*other, 1):
            continue
        shape = (*whole[:axis], length, *whole[axis + 1 :])
        for start in (0, whole[axis] - length):
            words = f"[{':, ' * axis}{start}:{start + length}]"
            yield Cut(whole, axis, start, start + length, shape, words=words)


def _part(whole: Activation, cut: Cut, stored: np.ndarray) -> Activation:
    return part_of(whole, cut, digest(np.ascontiguousarray(cut.of(stored)), whole.dtype))


def _is_filler(stored: np.ndarray, cut: Cut) -> bool:
    """Whether everything beside the stretch is one value; bits are compared, so NaN may be filler too."""
    axis = (slice(None),) * cut.axis
    sides = [stored[(*axis, slice(0, cut.start))], stored[(*axis, slice(cut.stop, None))]]
    rest = [side for side in sides if side.size]
    first = rest[0].reshape(-1)[:1]
    return all(bool((side == first).all()) or bool((side != side).all()) for side in rest)
