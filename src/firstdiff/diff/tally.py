"""What is summed up over the blocks of a pair. The numpy way of adding a block; `fast_tally` is the fast one."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from firstdiff.diff.ulp import max_ulp


@dataclass
class Specials:
    """The non-finite elements of one side."""

    nan: int = 0
    """NaN elements."""
    posinf: int = 0
    """+inf elements."""
    neginf: int = 0
    """-inf elements."""
    first: int = -1
    """Flat position of the first of them, -1 when there is none."""

    def add(self, values: np.ndarray, start: int) -> None:
        """Count those of ``values``, whose first element is at flat position ``start``."""
        odd = np.flatnonzero(~np.isfinite(values))
        if not odd.size:
            return
        kinds = values[odd]
        self.nan += int(np.isnan(kinds).sum())
        self.posinf += int(np.isposinf(kinds).sum())
        self.neginf += int(np.isneginf(kinds).sum())
        self.first = start + int(odd[0]) if self.first < 0 else self.first


@dataclass
class Tally:
    """Sums over the pairs of elements seen so far, all in float64, over pairs that are finite on both sides."""

    error: float = 0.0
    """Sum of |port - reference|."""
    error_squared: float = 0.0
    """Sum of (port - reference)**2."""
    reference_squared: float = 0.0
    """Sum of reference**2."""
    port_squared: float = 0.0
    """Sum of port**2."""
    largest: float = -1.0
    """Largest |port - reference|; -1 before the first pair."""
    worst: int = -1
    """Flat position of the first pair with it, in the reference's layout."""
    finite: int = 0
    """Pairs finite on both sides."""
    mismatches: int = 0
    """Pairs that differ at all; equal infinities and two NaN are no mismatch."""
    ulp: float = 0.0
    """Largest ULP distance."""
    unlike: int = 0
    """Pairs of which one is not finite and the other is not the same, padding included."""
    first_unlike: int = -1
    """Flat position of the first of them."""
    reference: Specials = field(default_factory=Specials)
    """The reference's non-finite elements, padding included."""
    port: Specials = field(default_factory=Specials)
    """The port's."""

    def add(
        self, reference: np.ndarray, port: np.ndarray, start: int, ulp: str | None, *, valid: bool
    ) -> None:
        """Add two 1-D blocks that begin at flat position ``start``; with ``valid`` False only look for non-finite."""
        finite = np.isfinite(reference) & np.isfinite(port)
        if not finite.all():
            self._add_specials(reference, port, start, valid=valid)
        if not valid:
            return
        places = np.flatnonzero(finite)
        self._add_finite(reference[places], port[places], start, places, ulp)

    def _add_specials(
        self, reference: np.ndarray, port: np.ndarray, start: int, *, valid: bool
    ) -> None:
        self.reference.add(reference, start)
        self.port.add(port, start)
        odd = np.flatnonzero(~(np.isfinite(reference) & np.isfinite(port)))
        ours, theirs = reference[odd], port[odd]
        unlike = odd[~((ours == theirs) | (np.isnan(ours) & np.isnan(theirs)))]
        self.unlike += unlike.size
        self.mismatches += unlike.size if valid else 0
        if unlike.size and self.first_unlike < 0:
            self.first_unlike = start + int(unlike[0])

    def _add_finite(
        self,
        reference: np.ndarray,
        port: np.ndarray,
        start: int,
        places: np.ndarray,
        ulp: str | None,
    ) -> None:
        if not places.size:
            return
        self.mismatches += int(np.count_nonzero(reference != port))
        ours, theirs = reference.astype(np.float64), port.astype(np.float64)
        error = np.abs(theirs - ours)
        self.error += float(error.sum())
        self.error_squared += float(np.dot(error, error))
        self.reference_squared += float(np.dot(ours, ours))
        self.port_squared += float(np.dot(theirs, theirs))
        self.finite += places.size
        worst = int(error.argmax())
        if error[worst] > self.largest:
            self.largest, self.worst = float(error[worst]), start + int(places[worst])
        if ulp is not None:
            self.ulp = max(self.ulp, max_ulp(reference, port, ulp))
