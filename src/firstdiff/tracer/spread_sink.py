"""Sinks that measure one run against another while it runs, by whole, row and column."""

from __future__ import annotations

from typing import TYPE_CHECKING

from firstdiff.tracer.comparison import is_inexact
from firstdiff.traces.dtypes import widen
from firstdiff.traces.padding import valid_elements
from firstdiff.traces.spread import Spread, error_spread, no_error

if TYPE_CHECKING:
    import numpy as np

    from firstdiff.tracer.events import Event
    from firstdiff.traces import Trace
    from firstdiff.traces.schema import Activation, Key


class SpreadSink:
    """A sink that measures each event against the true value of the same key."""

    def __init__(self, truth: Trace, mask: np.ndarray | None, native: OwnRun) -> None:
        """``mask`` is bool[batch, tokens], True at real tokens, or None; ``native`` saw the run that made ``truth``."""
        self.found: dict[Key, Spread] = {}
        """Spreads of the differences."""
        self._truth, self._mask = truth, mask
        self._activations = {a.key: a for a in (*truth.activations, *truth.deeper)}
        self._own, self._given = native.own, native.given

    def __call__(self, event: Event) -> None:
        """Measure ``event``, unless it is exact or has no counterpart."""
        truth, trace = self._activations.get(event.key), self._truth
        if truth is None and event.key in self._given:
            assert self._own is not None, "what is given is its own"
            truth, trace = self._given[event.key], self._own
        if truth is None or truth.shape != event.value.shape or not is_inexact(event.dtype):
            return
        known = self.found.get(event.same_as) if event.same_as is not None else None
        if known is None:
            valid = valid_elements(truth.shape, self._mask)
            known = error_spread(widen(event.value, event.dtype), trace.values(truth), valid)
        self.found[event.key] = known


class OwnRun:
    """A sink of the float64 run that measures the run whose values were forced: the model's own."""

    def __init__(self, own: Trace | None, mask: np.ndarray | None) -> None:
        self.found: dict[Key, Spread] = {}
        """Spreads of the differences."""
        self.given: dict[Key, Activation] = {}
        """Taps that see a forced value unchanged: the truth there is the value itself."""
        self.own, self._mask = own, mask
        every = () if own is None else (*own.activations, *own.deeper)
        self._activations = {a.key: a for a in every}

    def clear(self) -> None:
        """Forget everything: the run starts again."""
        self.found.clear()
        self.given.clear()

    def __call__(self, event: Event) -> None:
        """Measure the recorded value against the true one, ``event``."""
        found = self._activations.get(event.key)
        if self.own is None or found is None or found.place is None:
            return
        if found.shape != event.value.shape or not is_inexact(found.dtype):
            return
        if event.given:
            self.given[event.key] = found
        earlier = self._activations.get(event.same_as) if event.same_as is not None else None
        known = self.found.get(earlier.key) if earlier and earlier.place == found.place else None
        if known is None:
            valid = valid_elements(found.shape, self._mask)
            value = self.own.values(found)
            known = (
                no_error(value, valid)
                if event.given
                else error_spread(value, widen(event.value, event.dtype), valid)
            )
        self.found[event.key] = known
