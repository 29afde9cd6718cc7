"""Mistakes that lie below the rounding floor, known by their pattern: what agreement in bfloat16 leaves open.

A known mistake changes a known module in a known way, d. Where the port makes it, d is found in the port's error with
amplitude <err, d> / <d, d> = 1, however small it is beside rounding; where it does not, with none. Each module is
judged on its own recorded inputs, so nothing is carried over. Apart from `explanation`, which asks why a tensor is
wrong: here none is.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from firstdiff.diff.explain.activations import activations
from firstdiff.diff.explain.attention_family import attention
from firstdiff.diff.explain.embedding import embedding
from firstdiff.diff.explain.norms import norms
from firstdiff.diff.explain.rotary import rotary
from firstdiff.diff.explain.scene import Scene, norm
from firstdiff.diff.explain.trial import AMPLITUDE, EFFECT
from firstdiff.diff.floor import ONE_ROUNDING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from firstdiff.diff.explain.hypothesis import Family, Hypothesis
    from firstdiff.diff.row import Row
    from firstdiff.traces import Trace

FAMILIES: tuple[Family, ...] = (attention, norms, activations, rotary, embedding)
"""Those whose right computation is known without weights; a linear layer's kernel would have to be inferred."""
ALIKE = 2
"""Layers of one stack that are looked at: a mistake in code is in all of them."""
MOST = 1 << 19
"""Elements beyond which a tensor is left out."""
LEAST_SCORE = 0.5
"""Errors smaller than half the floor are left out: two roundings that are nearly alike."""
LEAST = 256
"""Elements that an amplitude needs to be more than luck."""


@dataclass(frozen=True)
class Suspicion:
    """A row that agrees, and whose error has the pattern of a mistake."""

    order: int
    """The reference's execution order of the activation."""
    name: str
    """Path of its module."""
    site: str
    """`input` or `output`."""
    cause: str
    """The class of mistake, a name of `causes.CAUSES`; likely, not certain."""
    words: str
    """What was applied."""
    amplitude: float
    """<err, d> / <d, d>: 1 when the port makes the mistake, 0 when not."""
    effect: float
    """rms(d) / rms(err)."""
    sentence: str
    """For people, with the remedy."""

    @property
    def title(self) -> str:
        """Its place, as a report names it."""
        return self.name or "the model"


def find_faint(
    reference: Trace, port: Trace, rows: Sequence[Row], padding: np.ndarray | None
) -> Suspicion | None:
    """The first agreeing row, in the reference's order, whose error has the pattern of a mistake; None for no row.

    ``padding`` is bool[batch, tokens], True at real tokens, or None.
    """
    for row in chosen(rows):
        if not given_wrong(row, rows):
            found = suspicion_at(Scene(reference, port, row, tuple(rows), padding))
            if found is not None:
                return found
    return None


def suspicion_at(scene: Scene) -> Suspicion | None:
    """The mistake whose pattern the error of ``scene`` has; None for none."""
    if not scene.target.shape or scene.valid.sum() < LEAST:
        return None
    found = _best(scene)
    return None if found is None else _suspicion(scene.row, *found)


def chosen(rows: Sequence[Row]) -> Iterator[Row]:
    """Rows that differ by rounding, made by themselves, of the first layers of each stack."""
    seen: Counter[tuple[str, str, str]] = Counter()
    for row in rows:
        key = row.key
        if row.pair is None or row.floor is None or row.layout is None or not row.verdict.score:
            continue
        if row.verdict.bad or row.verdict.score < LEAST_SCORE:
            continue
        if row.pair.reference.place is None or row.pair.port.place is None or key.step or key.call:
            continue
        if row.origin is not None and row.origin.basis == "same value":
            continue
        kind = (re.sub(r"\d+", "#", key.path), key.site, key.leaf)
        seen[kind] += 1
        if seen[kind] <= ALIKE and np.prod(row.activation.shape) <= MOST:
            yield row


def given_wrong(row: Row, rows: Sequence[Row]) -> bool:
    """Whether any of ``rows`` before it differs, healed or not, in the module around ``row``: no input is known."""
    region = row.key.path.rpartition(".")[0]
    return any(
        other.verdict.bad
        and other.side == "both"
        and other.activation.order < row.activation.order
        and f"{other.key.path}.".startswith(f"{region}." if region else "")
        for other in rows
    )


def _best(scene: Scene) -> tuple[Hypothesis, float, float] | None:
    """The matched hypothesis that leaves the least of the error, with amplitude and effect."""
    found = []
    for family in FAMILIES:
        for hypothesis in family(scene):
            if family is attention and hypothesis.precision:
                continue  # a narrow run rounds queries, keys and weights by itself
            amplitude, effect, left = _match(scene, hypothesis)
            if abs(amplitude - 1) < AMPLITUDE and effect > EFFECT:
                found.append((left, hypothesis, amplitude, effect))
    if not found:
        return None
    _, hypothesis, amplitude, effect = min(found, key=lambda item: item[0])
    return hypothesis, amplitude, effect


def _match(scene: Scene, hypothesis: Hypothesis) -> tuple[float, float, float]:
    """Amplitude, rms(d) / rms(err), and the share of the error that the hypothesis leaves; zeros for no match.

    An error smaller than one rounding counts as one: what is inferred from the reference is known no better.
    """
    shape = scene.wrong.shape
    null = np.broadcast_to(scene.right if hypothesis.null is None else hypothesis.null, shape)
    keep = scene.valid & ~np.isnan(null)
    keep = keep if hypothesis.where is None else keep & hypothesis.where
    value = np.broadcast_to(hypothesis.value, shape)[keep]
    error, effect = scene.wrong[keep] - null[keep], value - null[keep]
    assert scene.row.floor is not None, "chosen for its floor"
    rounding = ONE_ROUNDING * scene.row.floor.unit * norm(null[keep])
    square, size = float(effect @ effect), max(norm(error), rounding)
    if not np.isfinite(square) or not square or not size or error.size < LEAST:
        return 0.0, 0.0, 1.0
    left = norm(error - effect) / size
    return float(error @ effect) / square, float(np.sqrt(square)) / size, left


def _suspicion(row: Row, hypothesis: Hypothesis, amplitude: float, effect: float) -> Suspicion:
    place = f"{row.name or 'the model'} {row.label}"
    sentence = (
        f"Below the floor: {place} differs by {row.verdict.score or 0.0:.2g} of the floor only, but in the pattern of "
        f"a mistake ({hypothesis.cause}: {hypothesis.words}; amplitude {amplitude:.2f}, where a right port has 0); "
        f"repeat in float32."
    )
    return Suspicion(
        row.activation.order, row.name, row.key.site, hypothesis.cause, hypothesis.words,
        amplitude, effect, sentence,
    )  # fmt: skip
