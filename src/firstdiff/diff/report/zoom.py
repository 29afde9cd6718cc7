"""A zoom into one module, as text and as an HTML page. Renders `Zoom` and computes nothing."""

from __future__ import annotations

from html import escape
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from firstdiff.diff.inside.answer import short
from firstdiff.diff.report.format import activation_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from firstdiff.diff.inside.answer import InsideRow, Zoom
    from firstdiff.traces.schema import Level

_STYLE = """
:root { color-scheme: light dark; --ok: #1a7f37; --fail: #cf222e; --quiet: #6e7781; --line: #8884; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 75rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.3rem; } h1.agree { color: var(--ok); } h1.diverge { color: var(--fail); }
h2 { font-size: 1.05rem; } h1, h2, p { overflow-wrap: anywhere; }
table { border-collapse: collapse; width: 100%; font: 13px ui-monospace, monospace; margin-bottom: 2rem; }
th, td { text-align: left; padding: .15rem .6rem; border-bottom: 1px solid var(--line); }
tr.bad td.verdict { color: var(--fail); font-weight: 600; } p.quiet { color: var(--quiet); }
@media (max-width: 50rem) { table { display: block; overflow-x: auto; } td { white-space: nowrap; } }
"""


def print_zoom(
    result: Zoom,
    *,
    level: Level = "function",
    all_rows: bool = False,
    console: Console | None = None,
) -> None:
    """Print ``result``: results of functions; with ``level`` `op` also operations, with ``all_rows`` arguments too."""
    out = console or Console(highlight=False)
    out.print(Text(_headline(result)))
    for side in ("reference", "port"):
        rows = _shown(result, side, level, all_rows)
        if rows:
            out.print(Text(f"{side}: {PurePath(getattr(result, side)).name}", "bold"))
        for text in _table(rows):
            out.print(text, soft_wrap=True)
    out.print(Text(result.summary, "bold red" if result.spots else "bold green"))
    for note in result.notes:
        out.print(Text(f"Note: {note}.", "dim"))


def write_zoom_html(result: Zoom, path: str | Path) -> Path:
    """Write the page, every value of both sides on it, to ``path`` (UTF-8) and return it."""
    path = Path(path)
    path.write_text("\n".join(_page(result)), encoding="utf-8")
    return path


def _headline(result: Zoom) -> str:
    where = result.module or "the model"
    wrong = f" · wrong: {result.tap}" if result.tap else ""
    return f"zoom  {where} · each function on right inputs{wrong}"


def _shown(result: Zoom, side: str, level: Level, all_rows: bool) -> list[InsideRow]:
    """The rows of one side to print."""
    rows = [row for row in result.rows if row.side == side]
    if level != "op":
        rows = [row for row in rows if row.level == "function"]
    if not all_rows:
        rows = [row for row in rows if row.label.startswith("output") and row.shape]
    return rows


def _cells(row: InsideRow) -> tuple[str, str, str, str, str]:
    where = f"{short(row.source)} in {row.caller}" if row.caller else short(row.source)
    mark = {"not compared": "", "no equal": "NO EQUAL"}.get(row.verdict, row.verdict)
    return row.name, row.label, activation_text(row.dtype, row.shape), mark, where


def _table(rows: Sequence[InsideRow]) -> Iterator[Text]:
    cells = [_cells(row) for row in rows]
    wide = [max((len(cell[column]) for cell in cells), default=0) for column in range(5)]
    for row, cell in zip(rows, cells, strict=True):
        line = "  ".join(text.ljust(width) for text, width in zip(cell, wide, strict=True))
        yield Text(f"  {line}".rstrip(), "red" if row.verdict == "no equal" else "")


def _page(result: Zoom) -> Iterator[str]:
    state = "diverge" if result.spots else "agree"
    yield "<!doctype html><html lang=en><meta charset=utf-8>"
    yield "<meta name=viewport content='width=device-width, initial-scale=1'>"
    where = escape(result.module or "the model")
    yield f"<title>firstdiff zoom: {where}</title><style>{_STYLE}</style>"
    lead = f"{where}: " if result.spots else ""
    yield f"<h1 class={state}>{lead}{escape(result.summary)}</h1><p>{escape(_headline(result))}</p>"
    yield from _tables(result)
    yield from (f"<p class=quiet>{escape(note)}.</p>" for note in result.notes)
    yield "</html>"


def zoom_details(result: Zoom) -> Iterator[str]:
    """The values of both sides as HTML that opens on demand, for a page of another report."""
    yield f"<details><summary>{escape(_headline(result))}</summary>"
    yield from _tables(result)
    yield from (f"<p class=quiet>{escape(note)}.</p>" for note in result.notes)
    yield "</details>"


def _tables(result: Zoom) -> Iterator[str]:
    for side in ("reference", "port"):
        yield f"<h2>{side}: {escape(getattr(result, side))}</h2>"
        yield "<table><thead><tr><th>function or operation<th>value<th>tensor<th>on the other side<th>where</thead>"
        for row in result.rows:
            if row.side == side:
                name, label, tensor, mark, where = map(escape, _cells(row))
                kind = "bad" if row.verdict == "no equal" else "good"
                yield (
                    f"<tr class={kind}><td>{name}<td>{label}<td>{tensor}<td class=verdict>{mark}<td>{where}"
                )
        yield "</table>"
