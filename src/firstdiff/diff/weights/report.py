"""The audit for people: one headline, then one line for everything that is wrong in the same way. Computes nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from firstdiff.diff.weights.naming import family, parse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from firstdiff.diff.weights.audit import Audit
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
    parts = [
        f"{len(names[finding])} {words}" for finding, words in _WORDS.items() if finding in names
    ]
    extra = f" ({', '.join(parts)})" if parts else ""
    return f"{audit.right}/{audit.parameters} equal{extra}"


def lines(audit: Audit, *, all_rows: bool = False) -> list[str]:
    """The whole report, a line each: the headline, what is wrong, what is noteworthy."""
    text = [f"weights  {headline(audit)}"]
    if all_rows:
        return text + [_row(verdict) for verdict in audit.verdicts]
    wrong = [sentence(group) for group in grouped(audit.wrong)]
    notes = [
        sentence(group)
        for group in grouped(v for v in audit.notes if v.words and v.finding != "computed")
    ]
    text += [f"  WRONG  {sentence}" for sentence in _first(wrong)]
    return text + [f"  note   {sentence}" for sentence in _first(notes)]


def grouped(verdicts: Iterable[Verdict]) -> list[list[Verdict]]:
    """Verdicts that say the same: of all layers, or of all parameters of one layer, whichever gives fewer groups."""
    by_finding: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        by_finding.setdefault(verdict.finding, []).append(verdict)
    found: list[list[Verdict]] = []
    for same in by_finding.values():
        by_kind, by_layer = _group(same, _kind), _group(same, _layers)
        found += by_layer if len(by_layer) < len(by_kind) else by_kind
    return found


def _group(verdicts: Iterable[Verdict], key: Callable[[Verdict], object]) -> list[list[Verdict]]:
    groups: dict[object, list[Verdict]] = {}
    for verdict in verdicts:
        groups.setdefault(key(verdict), []).append(verdict)
    return list(groups.values())


def _kind(verdict: Verdict) -> object:
    """The same for all layers, and for both of two roles that are exchanged."""
    ours, theirs = verdict.reference, verdict.port.split("[")[0].split(" ")[0]
    if verdict.finding == "exchanged":
        words = frozenset(parse(name).template[-2:] for name in (ours, theirs))
        return (
            words
            if len(words) > 1
            else (words, frozenset(parse(name).index for name in (ours, theirs)))
        )
    return family(ours), family(theirs)


def _layers(verdict: Verdict) -> object:
    """The same for all parameters of a layer, and for both of two layers that are exchanged."""
    ours, theirs = _layer(verdict.reference), _layer(verdict.port.split("[")[0])
    if not ours or not theirs or verdict.finding not in _SAME:
        return _kind(verdict)
    if verdict.finding == "exchanged":
        return frozenset(parse(name).index[:1] for name in (verdict.reference, verdict.port))
    return ours, theirs


def _layer(name: str) -> str:
    """`model.layers.3` of a name below it; empty when there is no index."""
    parts = name.split(".")
    for place, part in enumerate(parts[:-1]):
        if family(part) != part:
            return ".".join(parts[: place + 1])
    return ""


def sentence(group: list[Verdict]) -> str:
    """What is wrong with the first of ``group``, and how many more like it."""
    first = group[0]
    text = first.words
    if len(group) > 1:
        kinds = {family(v.reference) for v in group}
        more = (
            f"{len(group) - 1} more of these layers"
            if len(kinds) > 2
            else f"{len(group) - 1} more like it"
        )
        text = f"{text} (and {more})"
    return f"{text}: {first.remedy}" if first.remedy else text


def _first(sentences: list[str]) -> list[str]:
    if len(sentences) <= MOST_LINES:
        return sentences
    return [
        *sentences[:MOST_LINES],
        f"and {len(sentences) - MOST_LINES} more kinds; --all prints every parameter",
    ]


def _row(verdict: Verdict) -> str:
    mark = {"right": "", "note": "note", "wrong": "WRONG"}[verdict.status]
    pair = f"{verdict.reference or '-'} = {verdict.port or '-'}"
    return f"  {mark:<6} {pair}  {verdict.transform or verdict.finding}" + (
        f"  {verdict.words}" if verdict.words else ""
    )
