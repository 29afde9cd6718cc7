"""A replay on a terminal. Renders `Replay` and computes nothing."""

from __future__ import annotations

from itertools import islice
from pathlib import PurePath
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from firstdiff.diff.faults import merged
from firstdiff.diff.report.format import indented, score_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from firstdiff.diff.explain import Suspicion
    from firstdiff.diff.faults import Fault
    from firstdiff.diff.replayed import Replay, ReplayRow

_SCORE = "error / floor"
_BELOW = "Below the floor, but in the pattern of a mistake (a right port has amplitude 0), to be repeated in float32:"
_VERDICTS = {"agrees": "agrees", "diverges": "DIVERGES"}


def print_replay(result: Replay, *, all_rows: bool = False, console: Console | None = None) -> None:
    """Print ``result``; with ``all_rows`` every judged tap before the faults."""
    out = console or Console(highlight=False)
    for text in _lines(result, all_rows, out.width):
        out.print(text, soft_wrap=text.no_wrap)


def _lines(result: Replay, all_rows: bool, width: int) -> Iterator[Text]:
    yield Text(_headline(result))
    if all_rows:
        yield from _table([_row(row) for row in result.rows])
    doubt = "bold yellow" if result.suspicions else "bold green"
    yield Text(result.summary, "bold red" if result.faults else doubt)
    yield from _faults(result.faults, "bold red", width)
    if result.suspects:
        yield Text("Near the limit (3 to 8 times the floor), to be repeated in float32:", "yellow")
        yield from _faults(result.suspects, "yellow", width)
    if result.suspicions:
        yield Text(_BELOW, "yellow")
        yield from _table(list(_suspicions(result.suspicions)), "yellow", "amplitude")
    if result.without_effect:
        titles = ", ".join(title for title, _ in merged(result.without_effect))
        yield Text(f"Differ without effect on what follows: {titles}.")
    if result.unjudged:
        names = ", ".join(name for name, _ in result.unjudged[:4])
        more = f" and {len(result.unjudged) - 4} more" if len(result.unjudged) > 4 else ""
        yield Text(f"Not judged: {names}{more} ({result.unjudged[0][1]}).", "dim")
    yield from (Text(f"Note: {note}", "dim") for note in result.notes)
    yield Text(_cost(result), "dim")


def _headline(result: Replay) -> str:
    names = PurePath(result.reference).name, PurePath(result.port).name
    given, taken = names if result.direction == "port" else names[::-1]
    return (
        f"replay  {result.cost.planted} values of {given} ({result.cost.nbytes / 1e6:.1f} MB) forced into "
        f"{taken} · judged on local floors of {result.dtype}"
    )


def _cost(result: Replay) -> str:
    cost = result.cost
    passes = f"{cost.passes} forced {'pass' if cost.passes == 1 else 'passes'}"
    return f"{cost.free:.1f} s for the free run, {cost.forced:.1f} s for {passes}"


def _row(found: ReplayRow) -> tuple[str, str, str, str]:
    row = found.row
    verdict = (
        "no effect" if row.healed else _VERDICTS.get(row.verdict.kind, row.verdict.kind.upper())
    )
    return row.name or "the model", row.label, verdict, score_text(row.verdict.score)


def _faults(faults: Sequence[Fault], style: str, width: int) -> Iterator[Text]:
    """A line a fault, whatever layers it is in, and its likely cause below."""
    groups = merged(faults)
    lines = _table([_fault(title, found) for title, found in groups], style)
    yield from islice(lines, 1)
    for line, (_, found) in zip(lines, groups, strict=True):
        yield line
        told = found[0].explanation
        if told is not None:
            said = indented(f"likely cause: {told.sentence}", width)
            yield Text(said, no_wrap=True, overflow="ignore")


def _fault(title: str, found: Sequence[Fault]) -> tuple[str, str, str, str]:
    scores = [fault.score for fault in found if fault.score is not None]
    return title, found[0].site, "", score_text(max(scores)) if scores else "exact"


def _suspicions(found: Sequence[Suspicion]) -> Iterator[tuple[str, str, str, str]]:
    """A row a mistake, whatever layers it is made in."""
    alike: dict[tuple[str, str], list[Suspicion]] = {}
    for suspicion in found:
        alike.setdefault((suspicion.cause, suspicion.site), []).append(suspicion)
    for (cause, site), same in alike.items():
        for title, group in merged(same):
            mean = sum(suspicion.amplitude for suspicion in group) / len(group)
            yield title, site, f"{cause}: {group[0].words}", f"{mean:.2f}"


def _table(
    rows: Sequence[tuple[str, str, str, str]], style: str = "", figure: str = _SCORE
) -> Iterator[Text]:
    if not rows:
        return
    wide = [max(len(row[column]) for row in rows) for column in range(4)]
    wide[3] = max(wide[3], len(figure))
    columns = [n for n in range(4) if any(row[n] for row in rows)]
    indent = " " * (2 + sum(wide[n] + 2 for n in columns[:-1]))
    yield Text(f"{indent}{figure.rjust(wide[3])}", "dim", no_wrap=True, overflow="ignore")
    for row in rows:
        cells = [row[n].rjust(wide[n]) if n == 3 else row[n].ljust(wide[n]) for n in columns]
        yield Text("  " + "  ".join(cells), style, no_wrap=True, overflow="ignore")
