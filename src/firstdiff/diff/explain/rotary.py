"""Rotary tables: angles measured from recorded cos and sin, and what ports get wrong in making them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from firstdiff.diff.explain.hypothesis import Change, Hypothesis
from firstdiff.diff.explain.roles import roles
from firstdiff.diff.explain.rounding import round_to

if TYPE_CHECKING:
    from collections.abc import Iterator

    from firstdiff.diff.explain.scene import Scene
    from firstdiff.traces.schema import Activation

_SAME = 1e-3
_STRETCHED = 0.9
"""Ratio of frequencies below which one was stretched; rounding them to bfloat16 changes them by 0.4 percent."""
BASES = (1e4, 5e5, 1e6, 1e5, 1e7, 5e6, 8e6, 1e3, 1.6e5)
"""Bases of published models."""


@dataclass(frozen=True)
class Angles:
    """Angles of a rotary table."""

    positions: np.ndarray
    """[1 or b, t] positions, float64."""
    frequencies: np.ndarray
    """[width / 2], radians a position."""
    factor: float = 1.0
    """On cos and sin (yarn)."""
    paired: str = "halves"
    """Each frequency twice: `halves` (f0 f1 ... f0 f1 ...) or `neighbours` (f0 f0 f1 f1 ...)."""

    def tables(self, base: float | None = None) -> tuple[np.ndarray, np.ndarray]:
        """cos and sin [1 or b, t, width], with other frequencies where a ``base`` is given."""
        frequencies = self.frequencies if base is None else powers(base, len(self.frequencies))
        angle = self.positions[..., None] * frequencies
        angle = (
            np.repeat(angle, 2, -1)
            if self.paired == "neighbours"
            else np.concatenate([angle, angle], -1)
        )
        return np.cos(angle) * self.factor, np.sin(angle) * self.factor

    def has(self, base: float) -> bool:
        """Whether these are the frequencies of ``base``."""
        return bool(np.allclose(self.frequencies, powers(base, len(self.frequencies)), rtol=1e-3))


def powers(base: float, count: int) -> np.ndarray:
    """base^(-i/count), i = 0 .. count - 1: frequencies of a table of width 2 count."""
    return np.asarray(base ** (-np.arange(count) / count))


def measure_angles(cos: np.ndarray, sin: np.ndarray) -> Angles | None:
    """Positions (from 0, one a token) and frequencies of tables [1 or b, t, width]; None for other tables."""
    if cos.shape[1] < 2 or cos.shape[-1] % 2:
        return None
    width = cos.shape[-1]
    half = np.array_equal(cos[..., : width // 2], cos[..., width // 2 :])
    pick = slice(0, width // 2) if half else slice(0, width, 2)
    angle = np.arctan2(sin[0, :, pick], cos[0, :, pick])  # [t, width / 2]
    places = np.arange(len(angle)) - (len(angle) - 1) / 2
    frequency = places @ np.unwrap(angle, axis=0) / (places @ places)  # slope by least squares
    if (frequency <= 0).any():
        return None
    factor = float(np.median(np.hypot(cos, sin)))
    positions = np.broadcast_to(np.arange(cos.shape[1], dtype=np.float64), cos.shape[:2])
    start = round(float(angle[0, -1] / frequency[-1])) if frequency[-1] else 0
    return Angles(positions + start, frequency, factor, "halves" if half else "neighbours")


CHANGES = (
    Change(
        "rotary pairing",
        "repeating angles for neighbouring channels, not for the two halves",
        {"paired": "neighbours"},
    ),
    Change(
        "rotary pairing",
        "repeating angles for the two halves, not for neighbouring channels",
        {"paired": "halves"},
    ),
    Change("rotary scaling", "leaving out the factor on cos and sin", {"factor": 1.0}),
)
"""Single changes of the right table."""
PRECISION = (
    Change("low precision", "rounding the frequencies to bfloat16", precision=True),
    Change("low precision", "rounding the angles to bfloat16", precision=True),
    Change("low precision", "rounding the frequencies to float16", precision=True),
)
"""Losses of precision that are no field of `Angles`."""


def rotary(scene: Scene) -> Iterator[Hypothesis]:
    """Hypotheses for cos or sin, as a module that is given positions returns them."""
    found = _recognise(scene)
    if found is None:
        return
    right, part = found
    null = right.tables()[part]
    for change in CHANGES:
        wrong = replace(right, **change.settings)
        if wrong != right:
            yield Hypothesis(change.cause, change.words, wrong.tables()[part], null)
    for base in dict.fromkeys((*BASES, _configured(scene))):
        if base and not right.has(base):
            cause = "rotary scaling" if base == _configured(scene) else "rotary base"
            words = f"computing the angles with base {base:g} alone"
            yield Hypothesis(cause, words, right.tables(base)[part], null)
    yield from _rounded(right, part, null)
    yield from _measured(scene, right, part, null)
    for offset in (1, -1, 2):
        moved = replace(right, positions=right.positions + offset)
        yield Hypothesis(
            "position offset", f"counting positions from {offset}", moved.tables()[part], null
        )
    other = right.tables()[1 - part]
    yield Hypothesis("rotary direction", "exchanging cos and sin", other, null)
    yield Hypothesis(
        "rotary direction",
        "turning backwards",
        replace(right, positions=-right.positions).tables()[part],
        null,
    )


def _recognise(scene: Scene) -> tuple[Angles, int] | None:
    """The right table, and 0 when the wrong tensor is its cos, 1 when its sin."""
    if "rotary" not in roles(scene.target.key.path) or scene.target.key.leaf not in ("0", "1"):
        return None
    pair = _pair(scene)
    if len(pair) != 2 or len(scene.target.shape) != 3:
        return None
    part = int(scene.target.key.leaf)
    angles = measure_angles(*(scene.recorded(a) for a in pair))
    if angles is None:
        return None
    given = _positions(scene)
    angles = angles if given is None else replace(angles, positions=given)
    for base in dict.fromkeys((_configured(scene), *BASES)):
        if base and angles.has(base):
            exact = replace(
                angles,
                frequencies=powers(base, len(angles.frequencies)),
                factor=_snap(angles.factor),
            )
            if scene.reproduces(exact.tables()[part]):
                return exact, part
    return (angles, part) if scene.reproduces(angles.tables()[part]) else None


def _pair(scene: Scene) -> list[Activation]:
    key = scene.target.key
    outputs = [
        a for a in scene.reference.activations
        if a.key.site == "output" and (a.key.path, a.key.call, a.key.step) == (key.path, key.call, key.step)
        and a.key.leaf in ("0", "1") and a.shape == scene.target.shape and a.place is not None
    ]  # fmt: skip
    return sorted(outputs, key=lambda a: a.key.leaf)


def _positions(scene: Scene) -> np.ndarray | None:
    key = scene.target.key
    for a in scene.before():
        if (
            a.key.site == "input"
            and a.key.path == key.path
            and "position" in a.key.leaf
            and len(a.shape) == 2
        ):
            return scene.recorded(a)
    return None


def _configured(scene: Scene) -> float:
    nested = scene.config.get("rope_parameters") or {}
    return float(scene.config.get("rope_theta") or nested.get("rope_theta") or 0.0)


def _snap(factor: float) -> float:
    return 1.0 if abs(factor - 1) < 1e-3 else factor


def _rounded(right: Angles, part: int, null: np.ndarray) -> Iterator[Hypothesis]:
    for change in PRECISION:
        dtype = (
            "float16"
            if "float16" in change.words and "bfloat16" not in change.words
            else "bfloat16"
        )
        if "frequencies" in change.words:
            value = replace(right, frequencies=round_to(right.frequencies, dtype)).tables()[part]
        else:
            angle = round_to(right.positions[..., None] * right.frequencies, dtype)
            angle = (
                np.repeat(angle, 2, -1)
                if right.paired == "neighbours"
                else np.concatenate([angle, angle], -1)
            )
            value = (np.cos, np.sin)[part](angle) * right.factor
        yield Hypothesis(change.cause, change.words, value, null, precision=True)


def _measured(scene: Scene, right: Angles, part: int, null: np.ndarray) -> Iterator[Hypothesis]:
    """Base and scaling as the port's own tables show them."""
    by_order = {row.activation.order: row for row in scene.rows if row.pair is not None}
    rows = [by_order.get(a.order) for a in _pair(scene)]
    if any(row is None for row in rows):
        return
    port = measure_angles(*(scene.ported(row) for row in rows if row is not None))
    if port is None or len(port.frequencies) != len(right.frequencies):
        return
    index = np.arange(1, len(port.frequencies))
    if len(index) < 2:
        return
    ratio = port.frequencies / right.frequencies
    logs = -np.log(port.frequencies[1:]) * len(port.frequencies) / index
    if np.ptp(logs) < _SAME * np.abs(logs).mean() and np.isclose(
        port.frequencies[0], 1, rtol=_SAME
    ):
        base = float(f"{np.exp(np.median(logs)):.6g}")
        words = f"computing the angles with base {base:g}"
        yield Hypothesis("rotary base", words, right.tables(base)[part], null, fitted=True)
    elif np.ptp(ratio) < _SAME * ratio.mean():
        factor = float(f"{1 / ratio.mean():.4g}")
        value = replace(right, frequencies=right.frequencies / factor).tables()[part]
        words = f"dividing the frequencies by {factor:g}"
        yield Hypothesis("rotary scaling", words, value, null, fitted=True)
    elif np.isclose(ratio, 1, rtol=_SAME).any() and ratio.min() < _STRETCHED:
        changed = int((~np.isclose(ratio, 1, rtol=_SAME)).sum())
        value = replace(right, frequencies=port.frequencies).tables()[part]
        words = f"stretching {changed} of {len(ratio)} frequencies by up to {1 / ratio.min():.3g}, as the port's show"
        yield Hypothesis("rotary scaling", words, value, null, fitted=True)
