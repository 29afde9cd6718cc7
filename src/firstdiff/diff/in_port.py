"""Where in the port the first wrong value is made, in the port's own names. Said where they differ from the
reference's: a pair by value or by place tells nobody which line to look at."""

from __future__ import annotations

from pathlib import PurePath
from typing import TYPE_CHECKING

from firstdiff.diff.calls import Call, calls_of, enclosing
from firstdiff.diff.locate import row_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from firstdiff.diff.locate import Finding
    from firstdiff.diff.row import Row
    from firstdiff.traces.schema import Activation

_MOST_NAMES = 6


def place_in_port(
    finding: Finding | None, rows: Sequence[Row], port: Sequence[Activation]
) -> tuple[str, ...]:
    """One sentence, or none where the pair rests on names: what the wrong value is in the port, and what runs between
    it and the last value that is equal."""
    row = row_of(finding, rows) if finding is not None else None
    if row is None or row.pair is None or row.pair.evidence not in ("values", "neighbours"):
        return ()
    wrong = row.pair.port
    equal = [
        other.pair.port.order
        for other in rows
        if other.pair is not None and other.verdict.kind == "agrees"
    ]
    last = max((order for order in equal if order < wrong.order), default=-1)
    between = _between(calls_of(port), last, wrong)
    verb = "is given" if wrong.key.site == "input" else "returns"
    names = ", ".join(between[:_MOST_NAMES]) + (", ..." if len(between) > _MOST_NAMES else "")
    runs = f"; after the last equal value run {names}" if between else ""
    return (f"In the port the first wrong value is what {_call(wrong)} {verb}{runs}.",)


def _between(calls: Sequence[Call], last: int, wrong: Activation) -> list[str]:
    """Names of the outermost calls that begin after ``last`` and end before ``wrong``, in order."""
    inside = [call for call in calls if last < call.start and call.end < wrong.order]
    around = enclosing(inside)
    names = [call.path.rpartition(".")[2] for call in inside if not around[call]]
    return list(dict.fromkeys(names))


def _call(activation: Activation) -> str:
    key = activation.key
    file, _, line = activation.source.rpartition(":")
    details = [f"call {key.call}"] if key.call else []
    details += [f"{PurePath(file).name}:{line}"] if file else []
    return f"{key.path}" + (f" ({', '.join(details)})" if details else "")
