"""What every report says in sentences: of the first divergence, of what has no effect, of what has no partner."""

from __future__ import annotations

from typing import TYPE_CHECKING

from firstdiff.diff.report.format import origin_sentence
from firstdiff.diff.report.lines import by_kind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from firstdiff.diff.result import Diff

_MOST_NAMES = 6


def about_finding(result: Diff) -> Iterator[str]:
    """Of the first divergence: its pattern, where its error comes from, its layout, what follows."""
    finding, first = result.finding, result.first
    assert finding is not None, "asked for a finding"
    assert first is not None, "a finding has a row"
    if finding.pattern is not None:
        yield f"By position: {finding.pattern.words}."
    if origin_sentence(first):
        yield origin_sentence(first)
    if first.layout is not None and first.layout.words:
        yield f"Layout: {first.layout.words}."
    if finding.later:
        noun, verb = ("activation", "differs") if finding.later == 1 else ("activations", "differ")
        yield f"{finding.later} later {noun} {verb} too, which may all follow from it."


def without_effect(result: Diff, more: str = "") -> Iterator[str]:
    """Divergences that heal; ``more`` tells where those that are left out can be seen."""
    healed = [row for row in result.rows if row.healed]
    if healed:
        yield f"Differ without effect on what follows: {_list(by_kind(healed), more)}."


def unmatched(result: Diff, more: str = "") -> Iterator[str]:
    """Activations that only one side has; ``more`` as above."""
    paired = [row for row in result.rows if row.side == "both"]
    for side, words in (("reference", "Missing in the port"), ("port", "Extra in the port")):
        rows = [row for row in result.rows if row.side == side]
        plural = "" if len(rows) == 1 else "s"
        if rows:
            names = _list(by_kind(rows, paired), more)
            yield f"{words}: {len(rows)} activation{plural}: {names}."


def _list(names: list[str], more: str) -> str:
    shown = ", ".join(names[:_MOST_NAMES])
    left = len(names) - _MOST_NAMES
    return f"{shown} and {left} more{more}" if left > 0 else shown
