"""A sink that cuts activations of a decoding step down to what a step with a growing cache would have recorded.

A port without a cache runs the whole prefix again: of that, the new positions count. A cache of fixed length has
places for tokens that are still to come: those are left out. Apart from the recording, which knows no tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from firstdiff.tracer.events import Event, Sink
    from firstdiff.traces.schema import Key

Cut = tuple[tuple[int, int, int], ...]
"""(axis, first index, index after the last) of every axis that is cut."""


class Cropping:
    """Axes that say how far decoding has come, found by their length."""

    def __init__(self, sink: Sink, length: Callable[[], int], *, capacity: int | None) -> None:
        """``length`` gives the tokens up to the present step. ``capacity`` is the length of a fixed cache, and no
        other axis of the model has it; None where each step runs the whole prefix."""
        self._sink, self._length, self._capacity = sink, length, capacity
        self._prompt: dict[Key, tuple[int, ...]] = {}
        self._cuts: dict[Key, Cut] = {}

    def __call__(self, event: Event) -> None:
        """Send ``event``, cut."""
        shape = tuple(event.value.shape)
        if event.key.step == 0:
            self._prompt[event.key] = shape
        cut = self._fixed(shape) if self._capacity is not None else self._grown(event.key, shape)
        self._cuts[event.key] = cut
        if event.same_as is not None and self._cuts.get(event.same_as) != cut:
            event = replace(event, same_as=None)
        self._sink(replace(event, value=_taken(event.value, cut)) if cut else event)

    def _fixed(self, shape: tuple[int, ...]) -> Cut:
        seen = self._length()
        return tuple((axis, 0, seen) for axis, size in enumerate(shape) if size == self._capacity)

    def _grown(self, key: Key, shape: tuple[int, ...]) -> Cut:
        """The first axis that has grown with the tokens; a mask with only one shows all tokens to the new one."""
        before = self._prompt.get(replace(key, step=0))
        if key.step == 0 or before is None or len(before) != len(shape):
            return ()
        length = self._length()
        grown = [
            axis
            for axis, (old, new) in enumerate(zip(before, shape, strict=True))
            if new == length and old == length - key.step
        ]
        if not grown or (len(grown) == 1 and "mask" in key.leaf):
            return ()
        return ((grown[0], length - 1, length),)


def _taken(value: np.ndarray, cut: Cut) -> np.ndarray:
    kept = [slice(None)] * value.ndim
    for axis, start, stop in cut:
        kept[axis] = slice(start, stop)
    return np.ascontiguousarray(value[tuple(kept)])


def unlike(least: int, lengths: set[int]) -> int:
    """The smallest prime of at least ``least`` that is none of ``lengths``: no axis of a model has it by chance."""
    number = least
    while number in lengths or any(number % d == 0 for d in range(2, int(number**0.5) + 1)):
        number += 1
    return number
