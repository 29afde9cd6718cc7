"""A trace while it is written: no other is overwritten, and what stops it leaves what was committed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from firstdiff.traces import Header, TraceWriter
from firstdiff.traces.errors import CaptureError


def refuse_existing(output: Path, force: bool) -> None:
    """Raise CaptureError where ``output`` cannot be written."""
    if output.exists() and not force:
        raise CaptureError(
            f"{output}: exists already; choose another name or overwrite it with --force"
        )
    if not output.parent.exists():
        raise CaptureError(f"{output}: there is no folder {output.parent}; make it first")


@contextmanager
def writing(
    output: str | Path, header: Header, *, digest: bool, force: bool
) -> Iterator[TraceWriter]:
    """A writer; what stops it leaves the `.part` with everything committed, if anything was, and says so."""
    writer = TraceWriter(output, header, digest_only=digest, overwrite=force)
    try:
        with writer:
            yield writer
    except BaseException as stop:
        if writer.count == 0:  # nothing to keep: the next attempt finds its name free
            writer.part.unlink(missing_ok=True)
        if not isinstance(stop, KeyboardInterrupt) or writer.count == 0:
            raise
        raise CaptureError(
            f"{output}.part: interrupted; what was recorded until then is kept: firstdiff recover {output}.part"
        ) from stop
