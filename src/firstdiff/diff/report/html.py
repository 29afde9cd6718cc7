"""A comparison as one HTML page that needs nothing else: to attach to a pull request, to open anywhere.

Like every report it computes nothing: the page shows the same fields as the text.
"""

from __future__ import annotations

from html import escape
from math import isfinite, log10
from pathlib import Path
from typing import TYPE_CHECKING

from firstdiff.diff.judge import FAIL, WARN
from firstdiff.diff.report.format import (
    BY_ITSELF,
    index_text,
    origin_texts,
    pair_text,
    part_text,
    score_text,
    value_text,
    zoom_sentence,
)
from firstdiff.diff.report.headline import headlines
from firstdiff.diff.report.sentences import about_finding, unmatched, without_effect
from firstdiff.diff.report.zoom import zoom_details

if TYPE_CHECKING:
    from collections.abc import Iterator

    from firstdiff.diff.result import Diff
    from firstdiff.diff.row import Row

_STYLE = """
:root { color-scheme: light dark; --ok: #1a7f37; --warn: #9a6700; --fail: #cf222e; --quiet: #6e7781; --line: #8884; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 90rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.3rem; } h1.agree { color: var(--ok); } h1.diverge { color: var(--fail); }
h1.doubt { color: var(--warn); } h2 { font-size: 1.05rem; } h1, h2, p { overflow-wrap: anywhere; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem; font-family: ui-monospace, monospace;
  font-size: 13px; } dt { font-weight: 600; } dd { margin: 0; overflow-wrap: anywhere; }
p.warning { color: var(--warn); } p.quiet { color: var(--quiet); }
table { border-collapse: collapse; width: 100%; font: 13px ui-monospace, monospace; }
th, td { text-align: left; padding: .15rem .6rem; border-bottom: 1px solid var(--line); vertical-align: top; }
th { position: sticky; top: 0; background: Canvas; } td.number { text-align: right; white-space: nowrap; }
td.name { min-width: 12rem; overflow-wrap: break-word; } td.worst { min-width: 10rem; }
td:last-child { min-width: 12rem; }
tr.first { outline: 2px solid var(--fail); outline-offset: -2px; } tr.OK .verdict { color: var(--ok); }
tr.WARN .verdict { color: var(--warn); }
tr.FAIL .verdict { color: var(--fail); font-weight: 600; } tr.alone .verdict { color: var(--quiet); }
.bar { display: inline-block; height: .6rem; background: currentColor; opacity: .6; vertical-align: middle; }
#bad:checked ~ table tr.OK { display: none; }
@media (max-width: 50rem) { dl { display: block; } dd { margin: 0 0 .4rem; }
  table { display: block; overflow-x: auto; } }
"""
_DECADES = 7.0
"""Length of a full bar: an error of ten million floors."""


def write_html(result: Diff, path: str | Path) -> Path:
    """Write the page to ``path`` (UTF-8) and return it."""
    path = Path(path)
    path.write_text("\n".join(_page(result)), encoding="utf-8")
    return path


def _page(result: Diff) -> Iterator[str]:
    state = "diverge" if result.exit_code else "agree" if result.suspicion is None else "doubt"
    yield "<!doctype html><html lang=en><meta charset=utf-8>"
    yield "<meta name=viewport content='width=device-width, initial-scale=1'>"
    yield f"<title>firstdiff: {escape(result.summary)}</title><style>{_STYLE}</style>"
    yield f"<h1 class={state}>{escape(result.summary)}</h1>"
    yield from _paragraphs(result)
    yield "<dl>"
    for title, text in headlines(result):
        yield f"<dt>{escape(title)}<dd>{escape(text)}"
    yield "</dl>"
    yield from _table(result)
    yield from (f"<p class=quiet>{escape(note)}</p>" for note in result.notes)
    yield "</html>"


def _paragraphs(result: Diff) -> Iterator[str]:
    finding = result.finding
    if finding is not None:
        yield from (f"<p>{escape(sentence)}</p>" for sentence in about_finding(result))
    if result.cause:
        yield f"<p><b>Likely cause:</b> {escape(result.cause)}</p>"
    elif result.explanation is not None:
        yield f"<p>{escape(result.explanation.sentence)}</p>"
    if result.zoom is not None:
        yield f"<p>{escape(zoom_sentence(result.zoom))}</p>"
        yield from zoom_details(result.zoom)
    if result.generation is not None:
        yield f"<p>{escape(result.generation.sentence)}</p>"
    if result.other_faults:
        faults = escape(str(result.other_faults))
        yield f"<p><b>Other faults</b>, each judged on the reference's own inputs: {faults}</p>"
    if result.next_step:
        title = "Function by function" if result.zoom is None else "Every value of it"
        yield f"<p>{title}: <code>{escape(result.next_step)}</code></p>"
    if result.next_step and not result.reference.functions:
        yield f"<p class=quiet>{escape(BY_ITSELF)}</p>"
    if finding is None and result.hidden is not None and result.hidden.sentence:
        yield f"<p class=warning>{escape(result.hidden.sentence)}</p>"
    if finding is not None and result.suspicion is not None:
        yield f"<p class=warning>{escape(result.suspicion.sentence)}</p>"
    for sentence in (*without_effect(result), *unmatched(result)):
        yield f"<p class=quiet>{_breakable(sentence)}</p>"
    for warning in result.warnings:
        yield f"<p class=warning>{escape(warning.sentence)}</p>"


def _table(result: Diff) -> Iterator[str]:
    hide = " checked" if result.exit_code else ""
    yield f"<input type=checkbox id=bad{hide}> <label for=bad>hide what agrees</label>"
    yield "<table><thead><tr><th>activation<th>shape<th>verdict<th>error<br>/&nbsp;floor<th><th>relative<br>L2"
    yield "<th>inherited<th>added<th>worst element<th>remarks</thead><tbody>"
    for row in result.rows:
        yield _line(row, row is result.first)
    yield "</tbody></table>"


def _line(row: Row, first: bool) -> str:
    verdict, found = row.verdict, row.measurement
    kind = "alone" if row.side != "both" else verdict.grade
    relative = found.relative_l2 if found is not None else None
    cells = [
        f"<td class=name>{_breakable(row.name or 'the model')} {_breakable(row.label)}",
        f"<td>{index_text(row.activation.shape)}",
        f"<td class=verdict>{'healed' if row.healed else verdict.kind}",
        f"<td class=number>{score_text(verdict.score)}",
        f"<td>{_bar(verdict.score)}",
        f"<td class=number>{'' if relative is None else f'{relative:.1e}'}",
        *(f"<td class=number>{text}" for text in origin_texts(row)),
        f"<td class=worst>{_worst(row)}",
        f"<td>{_breakable('; '.join(_remarks(row)))}",
    ]
    return f"<tr class='{kind}{' first' if first else ''}'>{''.join(cells)}"


def _breakable(path: str) -> str:
    """``path`` as HTML that a line may break behind each dot, not inside a name."""
    return escape(path).replace(".", ".<wbr>")


def _bar(score: float | None) -> str:
    """A bar as long as the logarithm of the score, coloured by its grade."""
    if not score or score < 1:
        return ""
    share = min(log10(score) / _DECADES, 1.0) if isfinite(score) else 1.0
    colour = "ok" if score < WARN else "warn" if score < FAIL else "fail"
    return f"<span class=bar style='width:{4 * share:.2f}rem;color:var(--{colour})'></span>"


def _worst(row: Row) -> str:
    found = row.measurement
    if found is None or found.worst is None or found.worst_reference is None:
        return ""
    reference, port = value_text(found.worst_reference), value_text(found.worst_port or 0.0)
    return f"{index_text(found.worst)}: ref&nbsp;{reference} port&nbsp;{port}"


def _remarks(row: Row) -> Iterator[str]:
    if row.layout is not None and row.layout.words:
        yield row.layout.words
    if row.healed:
        yield f"{row.healed} agrees"
    yield from row.verdict.notes
    if part_text(row):
        yield part_text(row)
    if pair_text(row):
        yield pair_text(row)
