"""Values that leave the device when they are computed, one after the other, by an ordered callback.

The way for a model whose activations do not fit together: nothing is an output of the program, and
on the host a value stays only until the last activation that is this value has been sent.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import jax
import numpy as np
from jax.experimental import io_callback

from firstdiff.tracer.jax.plan import has_shards
from firstdiff.traces.errors import CaptureError, OptionError

if TYPE_CHECKING:
    from firstdiff.tracer.jax.plan import Plan, Slot
    from firstdiff.tracer.jax.schedule import Occurrence

T = TypeVar("T")
Give: TypeAlias = Callable[["Occurrence", np.ndarray], None]
"""Takes one activation and its value, valid only until it returns."""
_Arrived: TypeAlias = tuple[int, tuple[int, ...]]


def refuse_several_devices(plan: Plan, arguments: Sequence[Any]) -> None:
    """`OptionError` where the order of callbacks is not defined: a program on several devices."""
    held = [array for array in arguments if isinstance(array, jax.Array)]
    count = max((len(array.devices()) for array in held), default=1)
    if count > 1 or has_shards(plan.nodes):
        what = "a shard_map" if has_shards(plan.nodes) else f"{count} devices"
        raise OptionError(
            f"stream: the model runs on {what}, and values arrive in order from one device only; "
            "leave --stream out, or capture in slices with --passes"
        )


class Stream:
    """Where callbacks end. One for each compiled program; `open` for every run of it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._depths: dict[int, int] = {}
        self._order: _Order | None = None
        self._error: BaseException | None = None

    def send(self, number: int, trips: tuple[Any, ...], value: Any) -> None:
        """Put a callback into the program that is being traced; `walk.Send`."""
        self._depths[number] = len(trips)

        def arrived(value: Any, *trips: Any) -> None:
            self._arrived((number, tuple(int(trip) for trip in trips)), np.asarray(value))

        io_callback(arrived, None, value, *trips, ordered=True)

    def run(
        self,
        program: Callable[[], T],
        occurrences: Sequence[Occurrence],
        slots: Sequence[Slot],
        give: Give,
    ) -> T:
        """What ``program()`` returns, which waits for all its callbacks; meanwhile ``give`` gets
        ``occurrences`` in their order.

        What ``give`` raises is raised here. `CaptureError` when a value did not come.
        """
        self._error, self._order = None, _Order(occurrences, slots, self._depths, give)
        try:
            result = program()
        finally:
            with self._lock:  # a run that is stopped goes on on the device: drop what it sends
                order, self._order = self._order, None
        if self._error is not None:
            raise self._error
        order.complete()
        return result

    def _arrived(self, arrived: _Arrived, value: np.ndarray) -> None:
        with self._lock:
            if self._order is None or self._error is not None:
                return
            try:
                self._order.arrived(arrived, value)
            except BaseException as error:  # out of a foreign thread; raised again by `run`
                self._error = error


class _Order:
    """Values in the order in which they arrive, given on in the order of the activations."""

    def __init__(
        self,
        occurrences: Sequence[Occurrence],
        slots: Sequence[Slot],
        depths: dict[int, int],
        give: Give,
    ) -> None:
        numbers = {slot: number for number, slot in enumerate(slots)}
        self.occurrences, self.depths, self.give = occurrences, depths, give
        self.numbers = [numbers[occurrence.slot] for occurrence in occurrences]
        self.uses: dict[int, list[tuple[tuple[int | slice, ...], int]]] = {}
        for place, occurrence in enumerate(occurrences):
            self.uses.setdefault(self.numbers[place], []).append((occurrence.index, place))
        self.held: dict[_Arrived, tuple[np.ndarray, int]] = {}
        self.next = 0

    def arrived(self, arrived: _Arrived, value: np.ndarray) -> None:
        number, trips = arrived
        depth = len(trips)
        uses = [place for index, place in self.uses.get(number, ()) if index[:depth] == trips]
        if not uses:
            return
        self.held[arrived] = value, uses[-1]
        self.give_all()
        if arrived in self.held:  # the callback's own memory is gone when it returns
            self.held[arrived] = np.array(value), uses[-1]

    def give_all(self) -> None:
        """Give on, as far as the next activation's value has arrived."""
        while self.next < len(self.occurrences):
            occurrence, number = self.occurrences[self.next], self.numbers[self.next]
            index, depth = occurrence.index, self.depths.get(number, 0)
            arrived = number, tuple(entry for entry in index[:depth] if isinstance(entry, int))
            if arrived not in self.held:
                return
            value, last = self.held[arrived]
            self.give(occurrence, value[index[depth:]])
            if self.next == last:
                del self.held[arrived]
            self.next += 1

    def complete(self) -> None:
        """`CaptureError` unless everything was given on."""
        if self.next < len(self.occurrences):
            key = self.occurrences[self.next].key
            raise CaptureError(
                f"{key.path} {key.site}: its value did not arrive while streaming; leave --stream out"
            )
