"""A part of a recorded activation, treated as an activation of its own: q out of a fused qkv, one expert out of all.

Nothing of it is stored: a part is a way to read what is. Parts of parts are parts of what they were cut from.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from firstdiff.traces.schema import Activation, Digest

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Cut:
    """Some places along one axis of a tensor that is read in a shape of its choice."""

    read: Shape
    """Shape in which the whole is read, as many elements as it has."""
    axis: int
    """Axis of ``read`` that is cut."""
    start: int
    """First place of the stretch that is cut out."""
    stop: int
    """First place after it."""
    shape: Shape
    """Shape of the part."""
    picked: tuple[int, ...] = ()
    """Single places instead of a stretch, in the order of the part."""
    words: str = ""
    """The place as people write it: `[..., 0:64]`."""

    def of(self, whole: np.ndarray) -> np.ndarray:
        """The part of ``whole``; a view where memory allows it."""
        return whole.reshape(self.read)[self._index()].reshape(self.shape)

    def put(self, whole: np.ndarray, value: np.ndarray) -> None:
        """Write ``value``, a part, into a C-contiguous ``whole``."""
        read = whole.reshape(self.read)
        read[self._index()] = value.reshape(read[self._index()].shape)

    def _index(self) -> tuple[slice | list[int], ...]:
        places = list(self.picked) if self.picked else slice(self.start, self.stop)
        return (*(slice(None),) * self.axis, places)


@dataclass(frozen=True)
class Part:
    """Where a part comes from."""

    whole: Activation
    """What it was cut from; a part itself where it was cut twice."""
    cut: Cut
    """What was cut out."""


def part_of(whole: Activation, cut: Cut, digest: Digest | None = None) -> Activation:
    """The part of ``whole`` as an activation; its leaf ends in the place: `[..., 0:64]`."""
    key = replace(whole.key, leaf=f"{whole.key.leaf}{cut.words}")
    return replace(whole, key=key, shape=cut.shape, digest=digest, part=Part(whole, cut))


def origin(activation: Activation) -> Activation:
    """The recorded activation that ``activation`` is a part of; itself when it is none."""
    while activation.part is not None:
        activation = activation.part.whole
    return activation


def on(whole: Activation, activation: Activation) -> Activation | None:
    """The same part of another recording of what ``activation`` was cut from; None where that has another shape."""
    if origin(activation).shape != whole.shape:
        return None
    if activation.part is None:
        return whole
    inner = on(whole, activation.part.whole)
    return None if inner is None else part_of(inner, activation.part.cut)


def put(whole: np.ndarray, activation: Activation, value: np.ndarray) -> None:
    """Write ``value`` where ``activation``, a part, lies in the C-contiguous ``whole`` of its origin."""
    assert activation.part is not None, "a part"
    around, cut = activation.part.whole, activation.part.cut
    if around.part is None:
        cut.put(whole, value)
        return
    inner = _part(whole, around).copy()
    cut.put(inner, value)
    put(whole, around, inner)


def _part(whole: np.ndarray, activation: Activation) -> np.ndarray:
    if activation.part is None:
        return whole
    return activation.part.cut.of(_part(whole, activation.part.whole))
