"""A comparison of activations, completed by what the weights say: cause, exit code, and the lines of reports."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from firstdiff.diff.weights.audit import Audit
from firstdiff.diff.weights.blame import HARMLESS, MOVED, Outcome, outcomes
from firstdiff.diff.weights.maptext import grouped_pairs
from firstdiff.diff.weights.places import ancestors
from firstdiff.diff.weights.report import grouped, headline, sentence
from firstdiff.diff.weights.weighed import Weighed

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from firstdiff.diff.result import Diff
    from firstdiff.diff.weights.evidence import Weighing
    from firstdiff.diff.weights.modulemap import MapPair
    from firstdiff.diff.weights.verdict import Verdict

_QUIET = HARMLESS | {"unused"}
"""Notes that no line of a comparison is spent on."""
_MOST = 6
_SWAPS = frozenset(
    {
        "weights swapped",
        "bias swapped",
        "keys and values exchanged",
        "activation on the wrong branch",
    }
)
"""Causes that a comparison of activations gives to exchanged weights."""


def with_weights(result: Diff, weighing: Weighing) -> Diff:
    """``result`` with the audit in it. Wrong weights that explain the divergence become its cause."""
    audit = weighing.audit
    found = _outcomes(result, weighing)
    moved = [n for n in found if audit.verdicts[n].finding in MOVED]
    settled = result.finding is None or any(found[n] == "cause" for n in moved)
    judged = tuple(
        _judged(verdict, found.get(number), settled=settled)
        for number, verdict in enumerate(audit.verdicts)
    )
    seen = Audit(judged, audit.parameters, audit.found)
    guilty = [audit.verdicts[n] for n, outcome in found.items() if outcome == "cause"]
    cause = _first(guilty, result)
    conflicts = _conflicts(result, weighing)
    weighed = Weighed(
        parameters=seen.parameters,
        right=seen.right,
        headline=headline(seen),
        wrong=seen.wrong,
        notes=seen.notes,
        conflicts=conflicts,
        cause=tuple(cause),
        lines=tuple(_lines(seen, conflicts)),
    )
    result = replace(result, weights=weighed.headline, audit=weighed)
    if cause:
        return replace(result, cause="weights: " + _joined(cause))
    if result.finding is None and seen.wrong:
        unlike = f"{result.summary.rstrip('.')}; but not all weights are the reference's: {_joined(seen.wrong)}"
        return replace(result, summary=f"{unlike}. These inputs do not show it.")
    return result


def distrusted(result: Diff, weighing: Weighing) -> tuple[str, ...]:
    """Modules of the reference whose weights seem to lie in others' places, so that names tell more: () for none.

    Where weights are exchanged and the port's code goes by the names, modules with equal weights do not correspond.
    """
    if result.finding is None:
        return ()
    found = _outcomes(result, weighing)
    verdicts = weighing.audit.verdicts
    moved = [(verdicts[n], outcome) for n, outcome in found.items() if verdicts[n].finding in MOVED]
    if not any(outcome == "cause" for _, outcome in moved):
        return ()
    return _with_containers({v.module for v, outcome in moved if outcome != "harmless"}, weighing)


def exchanged_modules(weighing: Weighing) -> tuple[str, ...]:
    """Modules of the reference of which weights and names say different things, before anything is compared."""
    moved = {v.module for v in weighing.audit.wrong if v.finding in MOVED}
    return _with_containers(moved, weighing)


def _with_containers(moved: set[str], weighing: Weighing) -> tuple[str, ...]:
    own = moved - {""}
    around = {path for module in own for path in ancestors(module)[1:-1]}
    return tuple(sorted(own | {path for path in around if _wholly(path, own, weighing)}))


def _wholly(path: str, moved: set[str], weighing: Weighing) -> bool:
    """Whether all that owns weights inside ``path`` was moved: a layer that is exchanged with another one."""
    inside = [
        p.reference
        for p in weighing.map.pairs
        if p.evidence == "weights" and p.reference.startswith(f"{path}.")
    ]
    return all(module in moved for module in inside)


def better(again: Diff, before: Diff, weighing: Weighing) -> bool:
    """Whether aligning exchanged modules by name, as in ``again``, tells more than by weights: it shows the damage."""
    if again.finding is None or again.counts.pairs < before.counts.pairs:
        return again.finding is None
    found = _outcomes(again, weighing)
    return any(
        outcome == "cause" and weighing.audit.verdicts[n].finding in MOVED
        for n, outcome in found.items()
    )


def _outcomes(result: Diff, weighing: Weighing) -> dict[int, Outcome]:
    order = None if result.finding is None else result.finding.order
    found = outcomes(weighing.audit, result.rows, order)
    explanation = result.explanation
    if explanation is None or not explanation.cause or explanation.cause in _SWAPS:
        return found
    # What explains the divergence is not an exchange, so exchanged weights are not what it shows.
    moved = {n for n in found if weighing.audit.verdicts[n].finding in MOVED}
    return {n: "open" if n in moved and o == "cause" else o for n, o in found.items()}


def _judged(verdict: Verdict, outcome: Outcome | None, *, settled: bool) -> Verdict:
    """A wrong verdict that activations contradict is a note; so is an exchange, of names perhaps, that they do not
    reach because something before it differs."""
    if verdict.finding == "exchanged" and outcome == "open" and not settled:
        unknown = (
            "whether weights or names are exchanged is not known while something before differs"
        )
        return replace(verdict, status="note", words=f"{verdict.words}; {unknown}", remedy="")
    if verdict.status != "wrong" or outcome != "harmless":
        return verdict
    agreeing = "what was computed with it agrees, so the port's code goes with its weights"
    return replace(verdict, status="note", words=f"{verdict.words}; {agreeing}", remedy="")


def _first(guilty: Sequence[Verdict], result: Diff) -> list[Verdict]:
    """Of what may be the cause, what the first divergence shows: wrong verdicts before notes, of the first module."""
    if result.finding is None or not guilty:
        return []
    wrong = [v for v in guilty if v.status == "wrong"] or list(guilty)
    starts: dict[str, int] = {}
    for row in result.rows:
        if row.side != "port":
            starts.setdefault(row.key.path, row.activation.order)
            if row.pair is not None:
                starts.setdefault(f"port {row.pair.port.key.path}", row.activation.order)
    here = next(
        row.key.path
        for row in result.rows
        if row.side != "port" and row.activation.order == result.finding.order
    )
    own = [v for v in wrong if v.module == here]

    def start(verdict: Verdict) -> float:
        places = starts.get(verdict.module), starts.get(f"port {verdict.port_module}")
        return min((float(place) for place in places if place is not None), default=float("inf"))

    if own:
        return own
    first = min(map(start, wrong))
    return [v for v in wrong if start(v) == first]


def _conflicts(result: Diff, weighing: Weighing) -> tuple[MapPair, ...]:
    """Pairs that were made against their names."""
    made = {(r.pair.reference.key.path, r.pair.port.key.path) for r in result.rows if r.pair}
    return tuple(
        pair
        for pair in weighing.map.pairs
        if pair.conflict and ((pair.reference, pair.port) in made or not pair.reference)
    )


def _lines(audit: Audit, conflicts: Sequence[MapPair]) -> list[str]:
    wrong = [f"WRONG {sentence(group)}" for group in grouped(audit.wrong)]
    spoken = (v for v in audit.notes if v.words and v.finding not in _QUIET)
    notes = [f"note: {sentence(group)}" for group in grouped(spoken)]
    named = [
        f"names: {one} is the port's {other} by its weights, which win; {pairs[0].conflict}"
        for (one, other), pairs in grouped_pairs(conflicts).items()
    ]
    return [*_few(wrong), *_few(named), *_few(notes)]


def _few(lines: list[str]) -> list[str]:
    more = len(lines) - _MOST
    return [
        *lines[:_MOST],
        *([f"and {more} more kinds: firstdiff weights lists them"] if more > 0 else []),
    ]


def _joined(verdicts: Iterable[Verdict]) -> str:
    return "; ".join(sentence(group) for group in grouped(verdicts)[:3])
