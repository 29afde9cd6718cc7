"""Judging a replay: each tap on right inputs, so that every wrong one is a fault of its own.

The two directions meet here. ``truth`` holds what the reference makes of the inputs at each tap, ``own`` what
the port made of them: in a port replay the reference's trace and the port's values before they were
replaced; in a reference replay the forced float64 run and the port's trace.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import numpy as np

from firstdiff.diff.align import Pair
from firstdiff.diff.compare import Comparison
from firstdiff.diff.faults import Fault, beyond_doubt, find_faults
from firstdiff.diff.floor import Floors
from firstdiff.diff.healing import mark_duplicates
from firstdiff.diff.judge import Verdict, dtype_note, grade_of
from firstdiff.diff.masks import is_mask
from firstdiff.diff.own_inputs import OwnInputs
from firstdiff.diff.planting import once
from firstdiff.diff.row import Row
from firstdiff.traces import digest
from firstdiff.traces.dtypes import unit_roundoff
from firstdiff.traces.padding import valid_elements
from firstdiff.traces.part import on, origin
from firstdiff.traces.spread import spreads

if TYPE_CHECKING:
    from firstdiff.diff.explain import Suspicion
    from firstdiff.diff.local import FloorOf, Score
    from firstdiff.diff.planting import Direction, Planting, Tap
    from firstdiff.traces import Trace
    from firstdiff.traces.schema import Activation, Key


@dataclass(frozen=True)
class ReplayRow:
    """One tap of a replay."""

    row: Row
    """Its pair, layout and verdict; the score is error / local floor."""
    score: Score | None = None
    """As a whole, for the worst row, for the worst column; None for what is compared exactly."""
    left: str = ""
    """Why the model's own value stayed here; empty where another was put in."""


@dataclass(frozen=True)
class Cost:
    """What a replay cost, wall time in seconds."""

    free: float = 0.0
    """Recording the model freely, loading and compiling included."""
    forced: float = 0.0
    """Running it with values put in, compiling included."""
    passes: int = 1
    """Forward passes with values put in."""
    planted: int = 0
    """Values put in."""
    nbytes: int = 0
    """Their size."""


@dataclass(frozen=True)
class Replay:
    """Everything that a replay found."""

    direction: Direction
    """Whose computation was given values: the port's, or the reference's."""
    reference: str
    """The reference, as it was named."""
    port: str
    """The port, as it was named."""
    dtype: str
    """Dtype whose rounding is allowed: the coarser run's."""
    rows: tuple[ReplayRow, ...]
    """Every judged tap, in the reference's order."""
    faults: tuple[Fault, ...]
    """Every fault beyond doubt (score 8 and above, or an exact difference), independent of each other; the same
    place of another layer is one from 3 on."""
    suspects: tuple[Fault, ...] = ()
    """Other places with a score from 3 to 8."""
    without_effect: tuple[Fault, ...] = ()
    """Places that differ and heal: nothing that follows depends on it."""
    unjudged: tuple[tuple[str, str], ...] = ()
    """Taps that could not be judged, with the reason."""
    cost: Cost = field(default_factory=Cost)
    """What it cost."""
    notes: tuple[str, ...] = ()
    """Sentences for people."""
    suspicions: tuple[Suspicion, ...] = ()
    """Agreeing taps of narrow runs whose error has the pattern of a known mistake: a reason to repeat in float32."""

    @property
    def exit_code(self) -> int:
        """0 when there is no fault, 1 when there is."""
        return 1 if self.faults else 0

    @property
    def worst(self) -> ReplayRow | None:
        """The agreeing tap with the largest score."""
        agreeing = [r for r in self.rows if r.row.verdict.kind == "agrees" and r.score is not None]
        return max(agreeing, key=lambda r: r.row.verdict.score or 0.0, default=None)

    @property
    def summary(self) -> str:
        """The verdict in one sentence."""
        judged = f"{len(self.rows)} activations, each on the {_giver(self.direction)}'s own inputs"
        if self.faults:
            count = len(self.faults)
            return f"{count} {'fault' if count == 1 else 'independent faults'} in {judged}."
        worst = self.worst
        score = f", worst error / floor {worst.row.verdict.score:.2g}" if worst else ""
        count = len(self.suspicions)
        below = f"; {count} {'suspicion' if count == 1 else 'suspicions'} below the floor"
        return f"No fault in {judged}{score}{below if count else ''}."

    def to_json(self) -> str:
        """The whole result as JSON, UTF-8; NaN and infinities become null."""
        from firstdiff.diff.report.json import dump

        return dump({"exit_code": self.exit_code, "summary": self.summary}, self)


def _giver(direction: Direction) -> str:
    return "reference" if direction == "port" else "port"


def judge_replay(
    plan: Planting,
    truth: Trace,
    own: Trace,
    floor_of: FloorOf,
    *,
    planted: Callable[[Key], bool],
    padding: np.ndarray | None = None,
    only: str | None = None,
    start: str | None = None,
) -> tuple[tuple[ReplayRow, ...], tuple[tuple[str, str], ...]]:
    """Judge every tap of ``plan``: (rows in the reference's order, taps without judgement and why).

    ``planted`` says whether a value was put in at a key of the model that got them. ``padding`` is the mask of
    `padding.padding_mask`. ``only`` is a glob over module paths; ``start`` the path of the module from which
    on taps are judged.
    """
    judge = _Judge(truth, own, floor_of, padding, OwnInputs(plan.taps))
    rows, unjudged = [], []
    for tap in chosen(plan.taps, only, start):
        found = judge.row(tap)
        if isinstance(found, str):
            unjudged.append((f"{tap.row.name or 'the model'} {tap.row.label}", found))
            continue
        reason = tap.left or ("" if planted(plan.taker(tap)) else "the model kept its own value")
        rows.append((tap, replace(found, left=reason)))
    marked = mark_duplicates([replace(found.row, healed="") for _, found in rows])
    both = zip(rows, marked, strict=True)
    return tuple(_named(tap, found, row) for (tap, found), row in both), tuple(unjudged)


def _named(tap: Tap, found: ReplayRow, marked: Row) -> ReplayRow:
    """``found`` with its repetitions marked, and with the free run's reference, whose values show what flows where."""
    assert marked.pair is not None, "a judged tap has a pair"
    pair = replace(marked.pair, reference=tap.pair.reference)
    return replace(found, row=replace(marked, pair=pair, healed=found.row.healed))


def chosen(taps: Sequence[Tap], only: str | None, start: str | None) -> list[Tap]:
    """The taps to judge: of modules that match ``only``, from the first tap at or below ``start`` on."""
    kept = list(taps)
    if start:
        inside = [n for n, tap in enumerate(kept) if _within(tap.row.name, start)]
        kept = kept[inside[0] :] if inside else []
    return [tap for tap in kept if only is None or fnmatchcase(tap.row.name, only)]


def _within(path: str, module: str) -> bool:
    return path == module or path.startswith(f"{module}.")


def faults_of(rows: Sequence[ReplayRow]) -> tuple[list[Fault], list[Fault], list[Fault]]:
    """(faults, suspects, differences without effect) among ``rows``, each in the reference's order."""
    found = find_faults([r.row for r in rows])
    healed = {r.row.activation.order for r in rows if r.row.healed}
    real = [f for f in found if f.finding.order not in healed]
    certain = beyond_doubt(real)
    return (
        certain,
        [f for f in real if f not in certain],
        [f for f in found if f.finding.order in healed],
    )


def _again(recorded: Mapping[Key, Activation], activation: Activation) -> Activation | None:
    """``activation`` as the replay recorded it; None where it did not run, or a part's whole has another shape."""
    whole = recorded.get(origin(activation).key)
    return whole if whole is None or activation.part is None else on(whole, activation)


class _Judge:
    def __init__(
        self,
        truth: Trace,
        own: Trace,
        floor_of: FloorOf,
        padding: np.ndarray | None,
        inputs: OwnInputs,
    ) -> None:
        self.inputs = inputs
        self.truth, self.own, self.floor_of, self.padding = truth, own, floor_of, padding
        self.ours = {a.key: a for a in truth.activations}
        self.theirs = {a.key: a for a in own.activations}
        self.exact = Comparison(truth, own, Floors((), "", None), padding)

    def row(self, tap: Tap) -> ReplayRow | str:
        """The row of one tap, or why it cannot be judged."""
        ours, theirs = _again(self.ours, tap.pair.reference), _again(self.theirs, tap.pair.port)
        if ours is None or theirs is None:
            return "it did not run in the replay"
        if ours.place is None or theirs.place is None:
            return "no elements were kept"
        pair = Pair(ours, theirs, tap.pair.evidence, tap.pair.leaf_evidence)
        floats = all(unit_roundoff(a.dtype) > 0 for a in (ours, theirs))
        masks = is_mask(tap.pair.reference) and is_mask(tap.pair.port)
        if not floats or masks:
            row = replace(self.exact.row(self._digested(pair), tap.row.name), healed=tap.row.healed)
            return ReplayRow(row)
        return self._floats(tap, pair)

    def _floats(self, tap: Tap, pair: Pair) -> ReplayRow | str:
        ours, theirs = pair.reference, pair.port
        if (ours.shape, theirs.shape) != (tap.pair.reference.shape, tap.pair.port.shape):
            return "its shape changed in the replay"
        truth, value = self.truth.values(ours), self.own.values(theirs)
        if tap.layout.kind == "broadcast":  # in the reference's shape where the port repeats itself
            repeated = tap.layout.port(value)
            plain = once(repeated, ours.shape)
            truth, value = (
                (truth, plain) if plain is not None else (tap.layout.reference(truth), repeated)
            )
        else:
            value = tap.layout.port(value).reshape(ours.shape)
        row = Row(tap.row.name, Verdict("agrees"), pair, layout=tap.layout, healed=tap.row.healed)
        bad = int(np.count_nonzero(np.isfinite(truth) & ~np.isfinite(value)))
        if bad:
            note = f"{bad} elements are not finite, though all inputs are"
            verdict = Verdict("non-finite", None, "FAIL", (note,))
            return ReplayRow(replace(row, verdict=verdict, pair=self._digested(pair)))
        floor = self.floor_of(tap.pair.reference)
        if floor is None:
            return "no local floor was recorded for it"
        error, scale = spreads(value, truth, valid_elements(truth.shape, self.padding))
        score = self.inputs.widened(floor, tap.pair.reference).score(error, scale)
        grade = grade_of(score.largest)
        kind = "agrees" if grade == "OK" else "diverges"
        notes = dtype_note(tap.pair.reference, theirs)
        verdict = Verdict(kind, score.largest, grade, notes)  # type: ignore[arg-type]  # mypy joins the two literals to str
        told = pair if grade == "OK" else self._digested(pair)
        return ReplayRow(replace(row, verdict=verdict, pair=told), score)

    def _digested(self, pair: Pair) -> Pair:
        """``pair`` with digests, which replayed runs are kept without: they tell masks and repeated values."""
        ours, theirs = (
            replace(a, digest=digest(np.ascontiguousarray(trace.stored(a)), a.dtype))
            if a.digest is None
            else a
            for trace, a in ((self.truth, pair.reference), (self.own, pair.port))
        )
        return replace(pair, reference=ours, port=theirs)
