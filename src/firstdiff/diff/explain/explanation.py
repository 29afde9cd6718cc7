"""Why the first wrong tensor is wrong: a cause when one is certain, otherwise hints, each with its evidence."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from firstdiff.diff.explain.activations import activations
from firstdiff.diff.explain.attention_family import attention
from firstdiff.diff.explain.embedding import embedding
from firstdiff.diff.explain.exact import Exact, explain_choices, explain_exact
from firstdiff.diff.explain.experts import experts
from firstdiff.diff.explain.glue import glue
from firstdiff.diff.explain.images import images
from firstdiff.diff.explain.linear import linear
from firstdiff.diff.explain.nonfinite import explain_nonfinite
from firstdiff.diff.explain.norms import norms
from firstdiff.diff.explain.patches import patches
from firstdiff.diff.explain.pooling import pooling
from firstdiff.diff.explain.precision import by_size, precision_class
from firstdiff.diff.explain.rotary import rotary
from firstdiff.diff.explain.router import router
from firstdiff.diff.explain.scene import Scene
from firstdiff.diff.explain.signatures import TIERS
from firstdiff.diff.explain.structure import Structure, find_structure
from firstdiff.diff.explain.summands import summands
from firstdiff.diff.explain.trial import Trial, decide, hold
from firstdiff.diff.explain.unrelated import unrelated
from firstdiff.diff.locate import row_of
from firstdiff.traces.padding import padding_mask

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from firstdiff.diff.align import Pair
    from firstdiff.diff.explain.hypothesis import Family, Hypothesis
    from firstdiff.diff.locate import Finding
    from firstdiff.diff.row import Row
    from firstdiff.traces import Trace

FAMILIES: tuple[Family, ...] = (
    *(attention, norms, activations, rotary, linear, embedding, glue, summands),
    *(router, experts, pooling, images, patches),
)
"""Hypotheses by kind of computation. One more is one more function here."""
HINTS = 3
"""Hints given at most."""
MOST = 1 << 26
"""Elements beyond which a tensor is not explained: float64 copies of it would not fit."""


@dataclass(frozen=True)
class Hint:
    """A cause that was not confirmed."""

    cause: str
    """The class of mistake, a name of `causes.CAUSES`."""
    words: str
    """What was applied."""
    left: float
    """Error left after it, over the rounding floor."""


@dataclass(frozen=True)
class Explanation:
    """Why one tensor is wrong."""

    cause: str | None
    """The class of mistake, a name of `causes.CAUSES`; None when none is certain."""
    sentence: str
    """Cause and evidence for people."""
    evidence: str
    """Where the error lies, and what removes it."""
    before: float | None = None
    """Error of the tensor, over the rounding floor; None for what is compared exactly."""
    left: float | None = None
    """Error left after the cause is applied, over the rounding floor."""
    hints: tuple[Hint, ...] = ()
    """Without a cause: what comes closest, the least error left first; at most three, of different causes."""
    structure: Structure | None = None
    """The error by position, row, head and channel; None for what is compared exactly."""
    port_source: str = ""
    """`file:line` in the port that made the tensor, when it was recorded."""
    reference_source: str = ""
    """The same in the reference."""
    precision: str = ""
    """The class of a loss of precision, a name of `precision.CLASSES`; empty for every other cause."""


def explain(
    reference: Trace,
    port: Trace,
    rows: Sequence[Row],
    finding: Finding,
    *,
    padding: np.ndarray | None = None,
) -> Explanation | None:
    """Why the first divergence of a comparison diverges; None where no elements were kept, or shapes differ.

    ``rows`` and ``finding`` are those of the comparison of ``reference`` and ``port``. ``padding`` is
    bool[batch, tokens], True at real tokens; None reads it from the reference's inputs.
    """
    row = row_of(finding, rows)
    if row is None:
        return None
    if padding is None:
        padding = padding_mask({name: reference.input_values(name) for name in reference.inputs})
    return explain_row(reference, port, rows, _made(rows, row), padding, _where(finding))


def _made(rows: Sequence[Row], row: Row) -> Row:
    """The first row with the very same two values: where they were made, if they were only passed on to ``row``."""
    values = _values(row)
    same = (r for r in rows if values is not None and r.verdict.bad and _values(r) == values)
    return next(same, row)


def _values(row: Row) -> tuple[int, int] | None:
    if row.pair is None or row.pair.reference.digest is None or row.pair.port.digest is None:
        return None
    return row.pair.reference.digest.checksum, row.pair.port.digest.checksum


def explain_row(
    reference: Trace,
    port: Trace,
    rows: Sequence[Row],
    row: Row,
    padding: np.ndarray | None,
    where: str = "",
) -> Explanation | None:
    """Why ``row``, a divergence or one that healed, is wrong. ``where`` is known about the error, as a phrase."""
    pair = row.pair
    if pair is None or pair.reference.place is None or pair.port.place is None:
        return None
    if row.layout is None:
        return _exact(explain_choices(reference, port, pair), pair)
    if max(np.prod(pair.reference.shape), np.prod(pair.port.shape)) > MOST:
        return None
    if row.verdict.kind == "non-finite":
        return _exact(explain_nonfinite(reference, port, row, padding), pair)
    if row.floor is None or row.measurement is None:
        return _exact(explain_exact(reference, port, row, padding), pair)
    return explain_scene(Scene(reference, port, row, tuple(rows), padding), where)


def explain_scene(scene: Scene, where: str = "") -> Explanation | None:
    """Why the tensor of ``scene`` is wrong; None for a scalar, and where nothing can be compared."""
    if not scene.target.shape or not scene.valid.any():
        return None
    structure, pair = find_structure(scene), scene.row.pair
    assert pair is not None, "a scene is made for a pair"
    seen = _phrase(where, structure.words)
    found = replace(_explain(scene, seen), structure=structure)
    return replace(found, port_source=pair.port.source, reference_source=pair.reference.source)


def _explain(scene: Scene, seen: str) -> Explanation:
    trials: list[Trial] = []
    plain, *rest = TIERS
    for tests in (FAMILIES, plain, None, *rest):
        if tests is None:
            other = unrelated(scene)
            if other is not None:
                return _told(*other, seen, scene.row.verdict.score)
            continue
        found = hold(scene, _all(tests, scene))
        believed = decide(found)
        if believed is not None:
            return _cause(believed, seen)
        trials += found
    return _hints(trials, f"{seen}{by_size(scene)}", scene.row.verdict.score)


def _all(families: Iterable[Family], scene: Scene) -> Iterable[Hypothesis]:
    for family in families:
        yield from family(scene)


def _cause(trial: Trial, seen: str) -> Explanation:
    hypothesis = trial.hypothesis
    done = f"{hypothesis.words[0].upper()}{hypothesis.words[1:]}"
    if trial.at_floor:
        effect = f"brings the error from {trial.before:.2g} to {trial.left:.2g} of the floor"
    elif trial.matched:
        effect = f"explains the error (matched amplitude {trial.amplitude:.2f}; {trial.left:.2g} of the floor is left)"
    else:
        amplitude, correlation = trial.pattern
        effect = f"explains the error's pattern (amplitude {amplitude:.2f}, correlation {correlation:.3f})"
    evidence, name = f"{seen}{done} {effect}.", hypothesis.cause
    kind, remedy = precision_class(hypothesis.words) if hypothesis.precision else ("", "")
    if kind:
        name, evidence = f"{name}: {kind}", f"{evidence} {remedy}"
    sentence = f"{name}. {evidence}"
    return Explanation(
        hypothesis.cause, sentence, evidence, trial.before, trial.left, precision=kind
    )


def _told(cause: str, words: str, seen: str, before: float | None) -> Explanation:
    evidence = f"{seen}{words}."
    return Explanation(cause, f"{cause}. {evidence}", evidence, before)


def _hints(trials: Sequence[Trial], seen: str, before: float | None) -> Explanation:
    """The best trial of each cause that explains a part of the error at all."""
    best: dict[str, Trial] = {}
    for trial in sorted(trials, key=lambda t: t.left):
        if trial.left < 0.9 * trial.before:
            best.setdefault(trial.hypothesis.cause, trial)
    hints = tuple(
        Hint(t.hypothesis.cause, t.hypothesis.words, t.left) for t in list(best.values())[:HINTS]
    )
    closest = "; ".join(f"{hint.words} leaves {hint.left:.2g} of the floor" for hint in hints)
    seen = f"{seen.strip()} " if seen.strip() else ""
    evidence = f"{seen}{closest[0].upper()}{closest[1:]}." if closest else seen.strip()
    sentence = (
        f"not certain. {evidence}"
        if evidence
        else "not known: nothing in the catalogue explains any of the error."
    )
    return Explanation(None, sentence, evidence, before, hints=hints)


def _exact(found: Exact | None, pair: Pair) -> Explanation | None:
    if found is None:
        return None
    evidence = f"{found.words}."
    sentence = f"{found.cause}. {evidence}" if found.cause else f"not certain. {evidence}"
    sources = pair.port.source, pair.reference.source
    return Explanation(
        found.cause, sentence, evidence, port_source=sources[0], reference_source=sources[1]
    )


def _where(finding: Finding) -> str:
    return finding.pattern.words if finding.pattern is not None else ""


def _phrase(*parts: str) -> str:
    """``parts`` as a sentence with a blank behind it; empty for nothing."""
    text = ", ".join(part for part in parts if part)
    return f"{text[0].upper()}{text[1:]}. " if text else ""
