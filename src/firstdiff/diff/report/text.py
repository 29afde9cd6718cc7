"""The result on a terminal. It adapts to the width and reads the same without colour."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from firstdiff.diff.report.format import (
    BY_ITSELF,
    indented,
    index_text,
    layout_text,
    pair_text,
    part_text,
    score_text,
    value_text,
    zoom_sentence,
)
from firstdiff.diff.report.headline import headlines
from firstdiff.diff.report.lines import Line, lines, title
from firstdiff.diff.report.sentences import about_finding, unmatched, without_effect

if TYPE_CHECKING:
    from collections.abc import Iterator

    from firstdiff.diff.measure import Measurement
    from firstdiff.diff.result import Diff
    from firstdiff.diff.row import Row

_SHOUT = {"diverges": "DIVERGES", "non-finite": "NON-FINITE", "shape": "SHAPE", "dtype": "DTYPE"}
_MORE = " (--all lists them)"
_SCORE = "error / floor"


def print_diff(result: Diff, *, all_rows: bool = False, console: Console | None = None) -> None:
    """Print ``result``; with ``all_rows`` every row, otherwise what leads to the first divergence."""
    out = console or Console(highlight=False)
    out.print(_headlines(result))
    for text in _rows(lines(result, all_rows=all_rows), out.width):
        out.print(text, soft_wrap=text.no_wrap)
    for paragraph in _paragraphs(result):
        out.print(paragraph, soft_wrap=paragraph.no_wrap)


def _headlines(result: Diff) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    for name, text in headlines(result):
        table.add_row(Text(name, "bold", no_wrap=True), Text(text))
    return table


def _rows(found: list[Line], width: int) -> Iterator[Text]:
    """The table of rows: name, site, verdict, error / floor, a remark (on a line of its own where it is narrow)."""
    cells = [(f"  {title(line.names)}", line.label, _verdict(line), _score(line)) for line in found]
    wide = [max([len(cell[column]) for cell in cells], default=0) for column in range(4)]
    wide[3] = max(wide[3], len(_SCORE))
    indent = sum(wide) + 2 * len(wide)
    yield Text(_SCORE.rjust(indent - 2), "dim")
    for line, (name, label, verdict, score) in zip(found, cells, strict=True):
        text = "  ".join(
            [
                name.ljust(wide[0]),
                label.ljust(wide[1]),
                verdict.ljust(wide[2]),
                score.rjust(wide[3]),
            ]
        )
        remark = _remark(line.first) if line.label else ""
        fits = indent + len(remark) <= width
        style = _style(line.first)
        yield Text(
            f"{text}  {remark}".rstrip() if fits else text, style, no_wrap=True, overflow="ignore"
        )
        if remark and not fits:
            yield Text(indented(remark, width), style, no_wrap=True, overflow="ignore")


def _style(row: Row) -> str:
    if row.diverges:
        return "bold red"
    return "" if row.verdict.kind == "agrees" else "yellow"


def _verdict(line: Line) -> str:
    row = line.first
    if row.healed:
        return "no effect"
    if row.duplicate_of is not None:
        return "repeated"
    if row.verdict.kind == "agrees":
        return "agree" if len(line.names) > 1 or line.names[0].endswith("*") else "agrees"
    return _SHOUT.get(row.verdict.kind, row.verdict.kind)


def _score(line: Line) -> str:
    """The largest score of the line; nothing where everything was compared exactly."""
    scores = [row.verdict.score for row in line.rows if row.verdict.score is not None]
    return score_text(max(scores)) if scores else ""


def _remark(row: Row) -> str:
    """The worst element of a pair, or what else there is to say of a row."""
    doubt = pair_text(row) if row.diverges else ""
    parts = [part_text(row), *row.verdict.notes, layout_text(row), doubt]
    found = row.measurement
    shown = row.verdict.kind == "diverges" and found is not None and found.worst is not None
    if (
        shown
        and found is not None
        and found.worst is not None
        and found.worst_reference is not None
    ):
        values = (
            f"ref {value_text(found.worst_reference)} port {value_text(found.worst_port or 0.0)}"
        )
        parts.insert(0, f"worst {index_text(found.worst)}: {values}")
    if row.healed:
        parts.append(f"{row.healed} agrees")
    if row.unmatched is not None and row.unmatched.candidate is not None:
        key = row.unmatched.candidate.key
        parts.append(f"most like {key.path or 'the model'} {key.site} {key.leaf}".rstrip())
    return "; ".join(part for part in parts if part)


def _worst(found: Measurement) -> str:
    """``worst [0,7,112]: ref +0.112 port -0.441``."""
    if found.worst is None or found.worst_reference is None or found.worst_port is None:
        return ""
    values = f"ref {value_text(found.worst_reference)} port {value_text(found.worst_port)}"
    return f"worst {index_text(found.worst)}: {values}"


def _paragraphs(result: Diff) -> Iterator[Text]:
    """What is said below the rows."""
    yield from (Text(f"Warning: {warning.sentence}", "yellow") for warning in result.warnings)
    doubt = result.suspicion is not None or bool(result.exit_code)
    open_question = "bold yellow" if doubt else "bold green"
    style = "bold red" if result.finding is not None else open_question
    yield Text(result.summary, style)
    if result.finding is not None:
        yield from map(Text, about_finding(result))
    elif result.hidden is not None and result.hidden.sentence:
        yield Text(result.hidden.sentence, "yellow")
    if result.finding is not None and result.suspicion is not None:
        yield Text(result.suspicion.sentence, "yellow")
    if result.cause:
        yield Text(f"Likely cause: {result.cause}")
    elif result.explanation is not None:
        yield Text(f"Cause: {result.explanation.sentence}")
    if result.zoom is not None:
        yield Text(zoom_sentence(result.zoom))
    if result.generation is not None:
        yield Text(result.generation.sentence)
    yield from map(Text, without_effect(result, _MORE))
    yield from map(Text, unmatched(result, _MORE))
    if result.other_faults:
        yield Text(
            f"Other faults, each judged on the reference's own inputs: {result.other_faults}"
        )
    if result.next_step:
        title = "Function by function" if result.zoom is None else "Every value of it"
        yield Text(f"{title}: {result.next_step}", no_wrap=True, overflow="ignore")
    if result.next_step and not result.reference.functions:
        yield Text(BY_ITSELF, "dim")
    yield from (Text(f"Note: {note}", "dim") for note in result.notes)
