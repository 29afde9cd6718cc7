"""The audit for people: one headline, then one line for everything that is wrong in the same way. Computes nothing."""

from __future__ import annotations

from collections.abc import Iterable

from firstdiff.diff.weights.audit import Audit
from firstdiff.diff.weights.naming import family
from firstdiff.diff.weights.verdict import Verdict

_WORDS = {
    "transposed": "transposed", "arranged": "rearranged", "scaled": "scaled", "offset": "norms shifted by one",
    "reordered": "reordered", "quantised": "quantised", "tied": "tied", "constant": "constant",
}  # fmt: skip
_SAME = frozenset({"exchanged", "duplicated", "missing", "never loaded"})
MOST_LINES = 20


def headline(audit: Audit) -> str:
    """`290/290 equal (196 transposed)`."""
    names: dict[str, set[str]] = {}
    for verdict in audit.verdicts:
        if verdict.reference and verdict.finding in _WORDS and verdict.status != "wrong":
            names.setdefault(verdict.finding, set()).add(verdict.reference.split(" ")[0])
    parts = [f"{len(names[finding])} {words}" for finding, words in _WORDS.items() if finding in names]
    extra = f" ({', '.join(parts)})" if parts else ""
    return f"{audit.right}/{audit.parameters} equal{extra}"


def lines(audit: Audit, *, all_rows: bool = False) -> list[str]:
    """The whole report, a line each: the headline, what is wrong, what is noteworthy."""
    text = [f"weights  {headline(audit)}"]
    if all_rows:
        return text + [_row(verdict) for verdict in audit.verdicts]
    wrong = [_sentence(group) for group in grouped(audit.wrong)]
    notes = [_sentence(group) for group in grouped(v for v in audit.notes if v.words and v.finding != "computed")]
    text += [f"  WRONG  {sentence}" for sentence in _first(wrong)]
    return text + [f"  note   {sentence}" for sentence in _first(notes)]


def grouped(verdicts: Iterable[Verdict]) -> list[list[Verdict]]:
    """Verdicts that differ only in the layer; of two layers that are exchanged, all parameters."""
    groups: dict[tuple[str, ...], list[Verdict]] = {}
    for verdict in verdicts:
        groups.setdefault(_kind(verdict), []).append(verdict)
    whole: dict[tuple[str, ...], list[Verdict]] = {}
    for group in groups.values():
        for verdict in group:
            whole.setdefault(_layers(verdict) if len(group) < 3 else _kind(verdict), []).append(verdict)
    return list(whole.values())


def _kind(verdict: Verdict) -> tuple[str, ...]:
    return verdict.finding, family(verdict.reference), family(verdict.port.split("[")[0])


def _layers(verdict: Verdict) -> tuple[str, ...]:
    """Finding and both layers, for what concerns layers as a whole; else `_kind`."""
    ours, theirs = _layer(verdict.reference), _layer(verdict.port)
    if verdict.finding not in _SAME or not ours or not theirs:
        return _kind(verdict)
    return verdict.finding, ours, theirs


def _layer(name: str) -> str:
    """`model.layers.3` of a name below it; empty when there is no index."""
    parts = name.split(".")
    for place, part in enumerate(parts[:-1]):
        if family(part) != part:
            return ".".join(parts[: place + 1])
    return ""


def _sentence(group: list[Verdict]) -> str:
    first = group[0]
    text = first.words
    if len(group) > 1:
        one_layer = len({_layer(v.reference) for v in group}) == 1 and len({_kind(v) for v in group}) > 1
        more = f"{len(group) - 1} more of that layer" if one_layer else f"{len(group) - 1} more like it"
        text = f"{text} (and {more})"
    return f"{text}: {first.remedy}" if first.remedy else text


def _first(sentences: list[str]) -> list[str]:
    if len(sentences) <= MOST_LINES:
        return sentences
    return [*sentences[:MOST_LINES], f"and {len(sentences) - MOST_LINES} more kinds; --all prints every parameter"]


def _row(verdict: Verdict) -> str:
    mark = {"right": "", "note": "note", "wrong": "WRONG"}[verdict.status]
    pair = f"{verdict.reference or '-'} = {verdict.port or '-'}"
    return f"  {mark:<6} {pair}  {verdict.transform or verdict.finding}" + (f"  {verdict.words}" if verdict.words else "")
