"""How far two values inside a module may lie apart, each computed from right inputs.

Where the reference's trace knows what rounding does to a function's arguments and results (`capture --level function`),
the rule is that of every local floor: 3 times the rounding is a divergence. Elsewhere a fixed relative L2 stands in
for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from firstdiff.diff.judge import WARN
from firstdiff.traces.dtypes import COARSE, unit_roundoff
from firstdiff.traces.padding import valid_elements
from firstdiff.traces.spread import spreads

if TYPE_CHECKING:
    from firstdiff.diff.local import FloorOf
    from firstdiff.traces.schema import Activation


def fixed_tolerance(dtype: str) -> float:
    """Relative L2 up to which two values are taken for equal, each computed from right inputs in ``dtype``.

    Sums of some thousand rounded numbers lie below it (numerics: 6 unit roundoffs for a product of length 4864), the
    smallest real mistakes above it (a scale off by a percent, a product in bfloat16).
    """
    unit = unit_roundoff(dtype)
    return 8 * unit if unit > COARSE else 512 * unit


class Allowance:
    """What two values may differ by."""

    def __init__(
        self, dtype: str, floors: FloorOf | None = None, padding: np.ndarray | None = None
    ) -> None:
        """``dtype`` is the coarser run's; ``floors`` its local floors at values of the reference, where known."""
        self.fixed = fixed_tolerance(dtype)
        """Relative L2 where no floor is known."""
        self.coarse = unit_roundoff(dtype) > COARSE
        """Whether the fixed tolerance is too wide for what a floor can tell."""
        self.padding = padding
        """bool[batch, tokens], True at real tokens, or None."""
        self._floors = floors

    def limit(self, reference: Activation) -> float:
        """Relative L2 that a value equal to ``reference`` keeps below: to search with; `close` decides."""
        floor = self._floors(reference) if self._floors is not None else None
        if floor is None or reference.digest is None or not reference.digest.rms:
            return self.fixed
        noise = np.hypot(floor.inflation * floor.native.rms, floor.conditioning.rms)
        measured = WARN * max(float(noise) / reference.digest.rms, floor.unit)
        return measured if self.coarse else max(self.fixed, measured)

    def close(self, reference: Activation, truth: np.ndarray, value: np.ndarray) -> bool:
        """Whether ``value`` equals ``truth``, the numbers of ``reference``: the same are not finite, and the others
        differ by no more than rounding does."""
        finite = np.isfinite(truth)
        if not np.array_equal(finite, np.isfinite(value)):
            return False  # at padded tokens too: they reach the others one layer later
        floor = self._floors(reference) if self._floors is not None else None
        if floor is not None and reference.shape == truth.shape:
            error, scale = spreads(value, truth, valid_elements(truth.shape, self.padding))
            within = floor.score(error, scale).largest < WARN
            if within or self.coarse:
                return within
        return self._near(truth, value, finite)

    def _near(self, truth: np.ndarray, value: np.ndarray, finite: np.ndarray) -> bool:
        """Whether the relative L2 of the finite numbers of real tokens is within the fixed tolerance."""
        valid = valid_elements(truth.shape, self.padding)
        if valid is not None:
            finite = finite & np.broadcast_to(valid, truth.shape)
        ours, theirs = truth[finite].astype(np.float64), value[finite].astype(np.float64)
        return bool(np.linalg.norm(ours - theirs) <= self.fixed * np.linalg.norm(ours))
