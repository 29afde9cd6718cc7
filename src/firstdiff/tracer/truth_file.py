"""The values of a golden run in a scratch file, for the runs that are measured against them while they run.

Apart from `forced_runs.py`, which runs. The file is read while it is still open for writing: nothing waits for the
disk, and nobody computes digests of what is gone in a minute.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Self

from firstdiff.traces import Header, Trace, TraceWriter, open_trace

if TYPE_CHECKING:
    from pathlib import Path

    from firstdiff.tracer.events import Event, Sink
    from firstdiff.tracer.forcing import Values
    from firstdiff.tracer.spread_sink import OwnRun


class TruthFile:
    """Takes what a golden run computed at each tap before the value there was forced.

    A tap that sees a forced value unchanged has that very value for its truth: it is kept in its own dtype, or not
    at all where ``own`` has it.
    """

    def __init__(self, path: Path, values: Values, own: OwnRun) -> None:
        """``path`` is free to be written; ``values`` are those that are forced; ``own`` measures them on the way."""
        self._path, self._values, self._own = path, values, own
        self._stack = ExitStack()
        self._writer: TraceWriter | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def begin(self) -> Sink:
        """A sink of a run that starts, again where one failed."""
        self._stack.close()
        self._own.clear()
        header = Header(framework="torch")
        writer = TraceWriter(self._path, header, digest=False, overwrite=True)
        self._writer = self._stack.enter_context(writer)
        return self._take

    def opened(self) -> Trace:
        """What the last run wrote, until this is left."""
        assert self._writer is not None, "a run has begun"
        return self._stack.enter_context(open_trace(self._writer.part, partial=True))

    def _take(self, event: Event) -> None:
        self._own(event)
        if event.key in self._own.given or self._writer is None:
            return
        value, dtype = event.value, event.dtype
        given = self._values(event.key) if event.given else None
        if given is not None:
            value, dtype = given
        self._writer.write(event.key, value, dtype=dtype, same_as=event.same_as)
