"""From values to events: names, dtypes, and which earlier event is the very same value."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from firstdiff.tracer.events import Event
from firstdiff.tracer.jax.reap import on_host
from firstdiff.traces.dtypes import storage

if TYPE_CHECKING:
    from firstdiff.tracer.events import Sink
    from firstdiff.tracer.jax.schedule import Occurrence
    from firstdiff.tracer.jax.wanted import Wanted
    from firstdiff.traces.schema import Key

_Identity = tuple[Any, tuple[int, ...]]


class Emission:
    """The events of one step, which one or several runs make."""

    def __init__(self, sink: Sink, *, several: bool = False) -> None:
        self.sink = sink
        self.count = 0
        self.changed: list[Key] = []
        """Activations whose value was another one in a later run."""
        self._several = several
        self._first: dict[_Identity, Key] = {}
        self._digests: dict[_Identity, bytes] = {}

    def give(self, occurrence: Occurrence, value: np.ndarray) -> None:
        """Send the event of ``occurrence``."""
        shards = len(occurrence.index) - len(occurrence.iterations_of_slot)
        value = occurrence.tap.turned(value, shards)
        stored, dtype = storage(np.asarray(value, order="C"))
        identity = occurrence.slot, (*occurrence.iterations_of_slot, *occurrence.tap.places)
        self.sink(
            Event(
                key=occurrence.key,
                value=stored,
                dtype=dtype,
                class_name=occurrence.tap.key.class_name,
                axes=occurrence.axes,
                source=occurrence.tap.source,
                same_as=self._same_as(identity, occurrence.key, stored),
            )
        )
        self.count += 1

    def give_all(
        self, occurrences: Sequence[Occurrence], wanted: Wanted, taken: dict[int, Any]
    ) -> None:
        """Send the events of ``occurrences``, in that order. A value leaves the device when it is
        first needed and is let go after its last use."""
        numbers = {slot: number for number, slot in enumerate(wanted.slots)}
        uses = [numbers[occurrence.slot] for occurrence in occurrences]
        last = {number: place for place, number in enumerate(uses)}
        hosted: dict[int, np.ndarray] = {}
        for place, (occurrence, number) in enumerate(zip(occurrences, uses, strict=True)):
            if number not in hosted:
                hosted[number] = on_host(taken.pop(number), occurrence.key)
            self.give(occurrence, hosted[number][wanted.index(occurrence)])
            if last[number] == place:
                del hosted[number]

    def _same_as(self, identity: _Identity, key: Key, value: np.ndarray) -> Key | None:
        first = self._first.setdefault(identity, key)
        if not self._several:
            return None if first is key else first
        digest = hashlib.blake2b(value.data, digest_size=16).digest()
        if self._digests.setdefault(identity, digest) == digest:
            return None if first is key else first
        self.changed.append(key)
        return None
