"""What several runs of a model will cost, said before they start, and how far they are, said while they run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from firstdiff.tracer.events import Event, Sink

Tell = Callable[[str], None]
"""Is told what is going on; a message that ends with a full stop is one to keep."""

FORWARDS = {"float64": 2.5, "float32": 1.2, "bfloat16": 1.0, "float16": 1.5}
"""Cost of a run under hooks in a precision, as a multiple of the plain float32 forward pass (measured on a CPU)."""


class Stages:
    """The runs of one job, each a stage."""

    def __init__(
        self,
        runs: Sequence[str],
        *,
        job: str,
        forward: float | None = None,
        events: int = 0,
        scratch: int = 0,
        tell: Tell = lambda _message: None,
    ) -> None:
        """``runs`` are the precisions that will run, in any order.

        ``forward`` is the wall time of one forward pass, in seconds; ``events`` about how many values a run makes;
        ``scratch`` the bytes that lie on the disk meanwhile.
        """
        self._tell, self._job, self._runs, self._events = tell, job, len(runs), events
        self._done = 0
        self._began = time.monotonic()
        self.cost = _cost(job, runs, forward, scratch)
        """What it will cost, one sentence."""

    def announce(self) -> None:
        """Say what it will cost."""
        self._tell(self.cost)

    @contextmanager
    def stage(self, name: str) -> Iterator[Callable[[Sink], Sink]]:
        """One run, called ``name``; yields what wraps its sink, so that each tenth of it is told."""
        self._done += 1
        head = f"{self._job}, run {self._done} of {max(self._runs, self._done)}: {name}"
        self._tell(head)

        def watched(sink: Sink) -> Sink:
            step, seen = max(1, self._events // 10), 0

            def counted(event: Event) -> None:
                nonlocal seen
                seen += 1
                if self._events and seen % step == 0:
                    share = min(99, round(100 * seen / self._events))
                    passed = time.monotonic() - self._began
                    self._tell(f"{head}, {share} %, {passed:.0f} s so far")
                sink(event)

            return counted

        yield watched


def _cost(job: str, runs: Sequence[str], forward: float | None, scratch: int) -> str:
    multiple = sum(FORWARDS.get(dtype, 1.0) for dtype in runs)
    wide = sum(dtype == "float64" for dtype in runs)
    more = f"{len(runs)} more runs of the model" + (f", {wide} of them in float64" if wide else "")
    parts = [f"about {multiple:.0f} times a forward pass"]
    if forward is not None:
        parts.append(f"{_seconds(multiple * forward)}")
    if scratch:
        parts.append(f"{scratch / 1e9:.1f} GB on the disk meanwhile")
    return f"{job}: {more}: {', '.join(parts)}."


def _seconds(seconds: float) -> str:
    return f"{seconds / 60:.0f} minutes" if seconds >= 120 else f"{max(seconds, 1):.0f} s"
