"""How much of the reference was compared. Apart, because agreement of a few activations is no agreement of the port."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from firstdiff.diff.result import Counts
    from firstdiff.diff.row import Row
    from firstdiff.traces.schema import Header

COVERED = 0.5
"""Share of the reference's activations from which agreement is said of the port, not only of what was compared."""


def agreement(counts: Counts, rows: Sequence[Row]) -> str:
    """What agrees, as the beginning of a sentence that says no more than was compared."""
    agreeing = f"{counts.agree} activations"
    whole = counts.pairs + counts.missing
    if counts.pairs < COVERED * whole:
        return (
            f"What could be compared agrees, but that is only {counts.pairs} of the reference's "
            f"{whole} activations: {agreeing}"
        )
    lost = uncompared_result(rows)
    if lost:
        return (
            f"The port's modules agree with the reference's, but the model's result ({', '.join(lost)}) has no "
            f"counterpart in what the port's call returns: {agreeing}"
        )
    return f"The port agrees with the reference: {agreeing}"


def uncompared_result(rows: Sequence[Row]) -> tuple[str, ...]:
    """Leaves of the reference's result, when none of them was compared."""
    results = [
        row
        for row in rows
        if row.side != "port" and row.key.path == "" and row.key.site == "output"
    ]
    if any(row.side == "both" for row in results):
        return ()
    return tuple(dict.fromkeys(row.key.leaf or "output" for row in results))


def coverage_notes(counts: Counts, port: Header) -> tuple[str, ...]:
    """What would make more of a port comparable, when little of it was, and not because little was asked for."""
    asked_for_part = bool(port.selection.get("globs"))
    if asked_for_part or counts.pairs >= COVERED * (counts.pairs + counts.missing):
        return ()
    if port.front_end == "functions":
        return (
            "the port is made of plain functions, and few values of the reference have an equal among what they "
            "receive and return: name values as the reference does with firstdiff.tap('layers.0.mlp', x)",
        )
    return ("most modules found no counterpart: pair their paths with --map FILE.toml",)
