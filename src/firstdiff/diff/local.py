"""Local floors, and the score of an error that was made between one tap and the next.

Apart from `floor.py`, whose free floors cover everything since the inputs. The rule: an error is judged as a
whole, by token row and by channel, against

    noise = chance * sqrt(max(rms(nat), kappa rms(y))^2 + rms(cond)^2), at least u/4 rms(y);

nat is the reference's own rounding at that tap when every input is given, kappa the median of rms(nat)/rms(y)
over the groups, cond the effect of moving the inputs by a few ulp, u the unit roundoff of the port's dtype. chance is
what luck may add where few elements carry a group: roundings are uniform, so that the sum of their squares has a
standard deviation of sqrt(0.8 / m) of its mean, m the number of elements that carry it (`spread.Carriers`).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import sqrt
from typing import TYPE_CHECKING

import numpy as np

from firstdiff.diff.floor import TINY
from firstdiff.diff.stand_in import LOCAL
from firstdiff.traces.dtypes import unit_roundoff
from firstdiff.traces.spread import CONDITIONING, Spread, from_tables, names

if TYPE_CHECKING:
    from firstdiff.traces import Trace
    from firstdiff.traces.schema import Activation

_NOTHING = Spread(0.0, 0, np.zeros(0), np.zeros(0))
_SUM = re.compile(r"linear|dense|conv", re.IGNORECASE)
_DEVIATIONS = 3.0
"""Standard deviations of the sum of squares that are luck."""
_UNIFORM = 0.8
"""Variance of the square of a uniform number around 0, over its squared mean: 9/5 - 1."""
MORE_ROUNDINGS = sqrt(2)
"""Factor on the reference's rounding against an exact truth: a right port may round twice as often, sums in parts, a
function in steps, a bias by itself. A truth that is rounded as well has the same factor for its own rounding."""
_SPECK = 1e-6
"""Groups that are zero in the reference may differ by this share of u times the whole tensor's rms."""


@dataclass(frozen=True)
class LocalFloor:
    """What rounding does at one tap."""

    unit: float
    """Unit roundoff of the port's dtype."""
    native: Spread = _NOTHING
    """Rounding of the reference in the port's dtype."""
    conditioning: Spread = _NOTHING
    """Effect of moving the inputs by a few ulp."""
    inflation: float = 1.0
    """Factor on ``native``: sqrt(2) where the error is taken from a value that is rounded alike, and where it is taken
    from an exact one (`MORE_ROUNDINGS`)."""

    def score(self, error: Spread, truth: Spread) -> Score:
        """The score of an error with spread ``error`` of a tensor with spread ``truth``."""
        least = self.unit * (0.25 if truth.count >= TINY else 1.0)
        speck = _SPECK * self.unit * truth.rms

        def ratio(
            e: np.ndarray, y: np.ndarray, nat: np.ndarray, cond: np.ndarray, chance: np.ndarray
        ) -> np.ndarray:
            own = self._filled(nat, y, self.native.rms, truth.rms)
            moved = self._filled(cond, y, self.conditioning.rms, truth.rms)
            relative = own[y > 0] / y[y > 0]
            kappa = float(np.median(relative)) if relative.size else 0.0
            noise = chance * np.hypot(self.inflation * np.maximum(own, kappa * y), moved)
            noise = np.maximum(noise, np.maximum(least * y, speck))
            with np.errstate(divide="ignore", invalid="ignore"):
                return np.where(e > 0, e / noise, 0.0)

        native, moved = self.native, self.conditioning
        luck = _luck(truth)
        whole = ratio(_rms(error), _rms(truth), _rms(native), _rms(moved), luck[0])
        rows = ratio(error.rows, truth.rows, native.rows, moved.rows, luck[1])
        columns = ratio(error.columns, truth.columns, native.columns, moved.columns, luck[2])
        return Score(float(whole[0]), _largest(rows), _largest(columns))

    @staticmethod
    def _filled(found: np.ndarray, like: np.ndarray, rms: float, scale: float) -> np.ndarray:
        """``found``, or the whole tensor's relative figure for every group where none were kept."""
        if found.shape == like.shape:
            return found
        return like * (rms / scale) if scale else np.zeros_like(like)


@dataclass(frozen=True)
class Score:
    """error / noise, as a whole and for the worst row and column."""

    whole: float
    """Over the whole tensor."""
    row: tuple[float, int] | None = None
    """The worst token row and its place; None without row groups."""
    column: tuple[float, int] | None = None
    """The worst channel and its place; None without column groups."""

    @property
    def largest(self) -> float:
        """The score."""
        return max(self.whole, *(found[0] for found in (self.row, self.column) if found), 0.0)


def _rms(spread: Spread) -> np.ndarray:
    return np.array([spread.rms])


def _luck(truth: Spread) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The factor ``chance`` for the whole tensor, its rows and its columns."""
    found = truth.carriers
    if found is None:
        return np.ones(1), np.ones(len(truth.rows)), np.ones(len(truth.columns))
    whole, rows, columns = (
        np.sqrt(1 + _DEVIATIONS * np.sqrt(_UNIFORM / count))
        for count in (np.array([found.whole]), found.rows, found.columns)
    )
    return whole, rows[: len(truth.rows)], columns[: len(truth.columns)]


def nothing() -> Spread:
    """The spread of no error at all."""
    return _NOTHING


def _largest(ratios: np.ndarray) -> tuple[float, int] | None:
    if not ratios.size:
        return None
    worst = int(np.argmax(ratios))
    return float(ratios[worst]), worst


FloorOf = Callable[["Activation"], "LocalFloor | None"]
"""The local floor at an activation of the reference, None where none was measured."""


def recorded_floors(reference: Trace, dtype: str, *, rounded_alike: bool) -> FloorOf | None:
    """The floors that were recorded with ``reference`` for ports in ``dtype``; None when there are none.

    ``rounded_alike``: the reference's own values have the rounding of ``dtype`` as well.
    """
    native, moved = (_table(reference, name) for name in (dtype, CONDITIONING))
    if native is None:
        return None
    plain = LocalFloor(unit_roundoff(dtype), inflation=sqrt(2) if rounded_alike else 1.0)

    def floor_of(activation: Activation) -> LocalFloor | None:
        found = native.get(activation.order)
        if found is None:
            return None
        cond = (moved or {}).get(activation.order, _NOTHING)
        return replace(plain, native=found, conditioning=cond)

    return floor_of


def moved_by(given: Activation | None) -> float:
    """How far a conditioning run moved the input ``given`` of a module, relative: 3 u, into sums of n products
    sqrt(n)/2 u, u of float32; None for what no module receives."""
    unit = unit_roundoff("float32")
    if given is None or not _SUM.search(given.class_name):
        return 3 * unit
    return unit * max(3.0, sqrt(given.shape[-1] if given.shape else 1) / 2)


def stand_in_floors(
    reference: Trace, dtype: str, *, rounded_alike: bool
) -> tuple[FloorOf, str] | None:
    """Floors for a reference that has none for ``dtype`` and cannot be run again, and what they are, as a phrase.

    The rounding of a module is a multiple of u that was measured elsewhere; the effect of moved inputs is the
    reference's own where it was recorded, since it does not depend on the dtype. None without digests.
    """
    multiple = LOCAL.get(dtype)
    if multiple is None or all(a.digest is None for a in reference.activations):
        return None
    unit, moved = unit_roundoff(dtype), _table(reference, CONDITIONING) or {}
    plain = LocalFloor(unit, inflation=sqrt(2) if rounded_alike else 1.0)

    def floor_of(activation: Activation) -> LocalFloor | None:
        digest = activation.digest
        if digest is None or unit_roundoff(activation.dtype) == 0:
            return None
        found = Spread(multiple * unit * digest.rms, digest.count, np.zeros(0), np.zeros(0))
        cond = moved.get(activation.order, _NOTHING)
        return replace(plain, native=found, conditioning=cond)

    return floor_of, f"no local floor recorded for {dtype}: {multiple:g} u stand-in"


def _table(trace: Trace, dtype: str) -> dict[int, Spread] | None:
    rows, groups = (trace.table(name) for name in names(dtype))
    return None if rows is None or groups is None else from_tables(rows, groups)
