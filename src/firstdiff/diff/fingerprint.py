"""Fingerprints of activations that no permutation or reshape of the elements changes.

Sorting forgets the layout and never makes two tensors more different: for any layouts of x and y
||sort(x) - sort(y)||_2 <= ||x - y||_2 (the rearrangement inequality; the left side is the 2-Wasserstein distance of
the two sets of numbers). By Jensen's inequality the same holds for means over stretches of the sorted elements:
sum_k n_k (m_k(x) - m_k(y))^2 <= ||sort(x) - sort(y)||_2^2. So the distance of two fingerprints is a lower bound of the
error in *every* layout: what it excludes is excluded for sure, whatever rounding did, and what it lets pass is
decided by the elements (`value_index`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf, isfinite, sqrt
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from firstdiff.traces.schema import Digest

STRETCHES = 64
"""Stretches of the sorted elements; the first and the last hold one element, the others equally many."""


@dataclass(frozen=True)
class Fingerprint:
    """What is known of a set of numbers without their places. Sums are float64, over the finite ones."""

    count: int
    """Number of elements, the non-finite ones included; a complex element is two numbers."""
    nonfinite: tuple[int, int, int]
    """NaN, +inf and -inf among them."""
    mean: float
    """Mean of the finite elements, 0 when there are none."""
    norm: float
    """L2 norm of the finite elements."""
    min: float
    """Smallest finite element, 0 when there are none."""
    max: float
    """Largest finite element."""
    means: np.ndarray | None = field(default=None, compare=False, repr=False)
    """float64[stretches]: the mean of each stretch of the sorted finite elements; None when made from a digest."""

    @property
    def finite(self) -> int:
        """Number of finite elements."""
        return self.count - sum(self.nonfinite)

    @property
    def constant(self) -> bool:
        """Whether all finite elements are equal: such values say nothing about identity."""
        return self.min == self.max

    def distance(self, other: Fingerprint) -> float:
        """A lower bound of ||x - y||_2 over all layouts of the two tensors; inf when no layout makes them equal.

        Without both stretches it rests on what a digest has: |sum x - sum y| <= sqrt(n) ||x - y||, and
        |norm x - norm y|, |max x - max y| and |min x - min y| are each at most ||x - y||.
        """
        if (self.count, self.nonfinite) != (other.count, other.nonfinite):
            return inf
        bounds = [
            sqrt(self.finite) * abs(self.mean - other.mean),
            abs(self.norm - other.norm),
            abs(self.max - other.max),
            abs(self.min - other.min),
        ]
        if self.means is not None and other.means is not None:
            gaps = self.means - other.means
            bounds.append(sqrt(float(np.dot(np.diff(_edges(self.finite)), gaps * gaps))))
        return max((bound for bound in bounds if isfinite(bound)), default=0.0)

    def excludes(self, other: Fingerprint, tolerance: float) -> bool:
        """Whether ||y - x|| <= ``tolerance`` ||x|| is impossible in every layout, x being this one.

        The sums were rounded, so a distance of some float64 rounding errors is none.
        """
        slack = 1e-12 * (self.norm + other.norm)
        return self.distance(other) > tolerance * self.norm + slack

    def same(self, other: Fingerprint) -> bool:
        """Whether the two sets of numbers may be the very same: equal stretches, bit for bit."""
        if self != other or self.means is None or other.means is None:
            return False
        return bool(np.array_equal(self.means, other.means))


def fingerprint(values: np.ndarray, valid: np.ndarray | None = None) -> Fingerprint:
    """The fingerprint of numbers of any shape and dtype; ``valid`` is a bool array that broadcasts to their shape.

    Costs one sort; memory: a copy of the elements.
    """
    flat = _chosen(values, valid)
    finite = flat[np.isfinite(flat)] if flat.dtype.kind == "f" else flat
    special = (
        (int(np.isnan(flat).sum()), int(np.isposinf(flat).sum()), int(np.isneginf(flat).sum()))
        if finite.size < flat.size
        else (0, 0, 0)
    )
    if not finite.size:
        return Fingerprint(flat.size, special, 0.0, 0.0, 0.0, 0.0, np.zeros(0))
    ordered = np.sort(finite).astype(np.float64)
    edges = _edges(ordered.size)
    with np.errstate(over="ignore", invalid="ignore"):
        sums = np.add.reduceat(ordered, edges[:-1])
        norm = sqrt(float(np.dot(ordered, ordered)))
    return Fingerprint(
        flat.size,
        special,
        float(sums.sum()) / ordered.size,
        norm,
        float(ordered[0]),
        float(ordered[-1]),
        sums / np.diff(edges),
    )


def of_digest(digest: Digest) -> Fingerprint:
    """The fingerprint of all elements as far as their digest tells it: everything but the stretches."""
    special = (digest.nan, digest.posinf, digest.neginf)
    norm = digest.rms * sqrt(digest.count - sum(special))
    return Fingerprint(digest.count, special, digest.mean, norm, digest.min, digest.max)


def _chosen(values: np.ndarray, valid: np.ndarray | None) -> np.ndarray:
    """The valid elements in one dimension, as real numbers that sort."""
    flat = values.reshape(-1) if valid is None else values[np.broadcast_to(valid, values.shape)]
    if flat.dtype.kind == "c":
        flat = np.concatenate([flat.real, flat.imag])
    return flat.astype(np.float32) if flat.dtype == np.float16 else flat


def _edges(count: int) -> np.ndarray:
    """int[stretches + 1]: where the stretches of ``count`` sorted elements begin, and the end."""
    if count <= STRETCHES:
        return np.arange(count + 1)
    inner = np.linspace(1, count - 1, STRETCHES - 1).astype(np.int64)
    return np.concatenate([[0], inner, [count]])
