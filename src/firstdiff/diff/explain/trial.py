"""How well a hypothesis explains an error, and when it is believed. The rule of acceptance is here and nowhere else."""

from __future__ import annotations

from dataclasses import dataclass
from math import hypot
from typing import TYPE_CHECKING

import numpy as np

from firstdiff.diff.explain.scene import TINY, Scene, norm
from firstdiff.diff.judge import FAIL, WARN

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from firstdiff.diff.explain.hypothesis import Hypothesis

GAIN = 2.0
"""The error before has to be more than so many times the error left."""
CLEAR = 1.5
"""The best hypothesis of any other cause has to leave more than so many times the error."""
AMPLITUDE = 0.3
"""Matched filter: the effect d is present when <err, d> / <d, d> is within this of 1 ..."""
EFFECT = 0.3
"""... and rms(d) is more than this much of rms(err). Right ports: none of 11,868 such tests accepted (measured)."""
CORRELATION = 0.7
"""A loss of precision is believed when its roundings correlate with the error so much; others' do not at all."""


@dataclass(frozen=True)
class Trial:
    """One hypothesis, held against the port's tensor."""

    hypothesis: Hypothesis
    """What was applied."""
    before: float
    """Error of the right semantics on the same inputs, over the rounding floor."""
    left: float
    """Error that is left when the hypothesis is applied, over the rounding floor."""
    amplitude: float
    """<err, d> / <d, d>, where d is the hypothesis' effect: 1 when the port has it, 0 when not."""
    effect: float
    """rms(d) / rms(err)."""

    pattern: tuple[float, float] = (0.0, 0.0)
    """Amplitude and cosine of a loss of precision and the error, without one factor a group (`Hypothesis.group`)."""

    @property
    def at_floor(self) -> bool:
        """Whether the error vanishes in rounding; what was fitted has to remove one that was beyond doubt."""
        enough = not self.hypothesis.fitted or self.before > FAIL
        return enough and self.left < WARN and self.before > GAIN * self.left

    @property
    def matched(self) -> bool:
        """Whether an effect of the size of rounding is there, with the amplitude of the mistake.

        A fitted hypothesis has that amplitude by construction: it is a rival of others, and never believed for it.
        """
        return self.rival and not self.hypothesis.fitted

    @property
    def rival(self) -> bool:
        """Whether it would be believed, or is fitted and explains as much."""
        present = abs(self.amplitude - 1) < AMPLITUDE and self.effect > EFFECT
        return present and self.left < min(WARN, self.before)

    @property
    def rounded(self) -> bool:
        """Whether the error is made of the roundings of a loss of precision."""
        amplitude, correlation = self.pattern
        return abs(amplitude - 1) < AMPLITUDE and correlation > CORRELATION


def hold(scene: Scene, hypotheses: Iterable[Hypothesis]) -> list[Trial]:
    """A trial of each hypothesis that can be told from the right semantics, the least error left first.

    A hypothesis whose right semantics reproduce the port says nothing: the fault lies elsewhere.
    """
    trials = [trial for trial in (_trial(scene, h) for h in hypotheses) if trial is not None]
    return sorted(trials, key=lambda trial: trial.left)


def _trial(scene: Scene, hypothesis: Hypothesis) -> Trial | None:
    null = scene.right if hypothesis.null is None else hypothesis.null
    keep = scene.valid & ~np.isnan(np.broadcast_to(null, scene.wrong.shape))
    keep = keep if hypothesis.where is None else keep & hypothesis.where
    port = scene.wrong[keep]
    right = np.broadcast_to(null, scene.wrong.shape)[keep]
    error, size = port - right, norm(right)
    before = norm(error) / scene.floor_of(size)
    value = np.broadcast_to(hypothesis.value, scene.wrong.shape)[keep]
    if before < WARN or not np.isfinite(value).all():
        return None
    effect = value - right
    product, square = float(error @ effect), float(effect @ effect)
    if not np.isfinite(square) or square == 0:
        return None
    floor = hypot(scene.floor_of(max(size, norm(value))), hypothesis.noise)
    pattern = _pattern(scene, hypothesis, null) if hypothesis.precision else (0.0, 0.0)
    share = float(np.sqrt(square)) / norm(error)
    return Trial(hypothesis, before, norm(port - value) / floor, product / square, share, pattern)


def _pattern(scene: Scene, hypothesis: Hypothesis, null: np.ndarray) -> tuple[float, float]:
    """Amplitude and cosine of error and effect, without the part along the right values in each group of channels."""
    shape = scene.wrong.shape
    keep = scene.valid & ~np.isnan(np.broadcast_to(null, shape))
    width = hypothesis.group or 1
    sides = (np.broadcast_to(x, shape) for x in (null, scene.wrong, hypothesis.value))
    right, port, value = (np.where(keep, x, 0.0).reshape(-1, width) for x in sides)
    error, effect = port - right, value - right
    if hypothesis.group:
        error, effect = (_without(x, right) for x in (error, effect))
    square, left = float((effect**2).sum()), norm(error)
    if not square or left < WARN * scene.floor:
        return 0.0, 0.0
    product = float((error * effect).sum())
    return product / square, product / (float(np.sqrt(square)) * left)


def _without(x: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """Each row of ``x`` without its part along the same row of ``direction``."""
    square = np.maximum((direction**2).sum(axis=1, keepdims=True), TINY)
    along = (x * direction).sum(axis=1, keepdims=True) / square
    return np.asarray(x - along * direction)


def decide(trials: Sequence[Trial]) -> Trial | None:
    """The trial that is believed, or None. ``trials`` as `hold` gives them."""
    if not trials:
        return None
    best = trials[0]
    others = [trial for trial in trials if trial.hypothesis.cause != best.hypothesis.cause]
    clear = all(trial.left > CLEAR * best.left for trial in others)
    if best.at_floor and clear:
        return best
    if best.matched and not any(trial.rival for trial in others):
        return best
    rounded = [trial for trial in trials if trial.rounded]
    if rounded and not any(trial.at_floor or trial.matched for trial in trials):
        return max(rounded, key=lambda trial: trial.pattern[1])
    return None
