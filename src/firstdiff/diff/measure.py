"""How far a port's activation is from the reference's. Figures only: what they mean is judged elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from math import isfinite, sqrt
from typing import TYPE_CHECKING, Any

import numpy as np

from firstdiff.diff.blocks import BLOCK, ValidRows, paired_blocks
from firstdiff.diff.tally import Specials, Tally
from firstdiff.diff.ulp import ulp_dtype
from firstdiff.traces.dtypes import widen

if TYPE_CHECKING:
    from firstdiff.diff.layout import Layout
    from firstdiff.traces.schema import Activation

_PIECE = 64 * BLOCK
"""Elements handed to the compiled kernel at once: it keeps no copy of them."""


@dataclass(frozen=True)
class NonFinite:
    """Non-finite elements of one side, padded rows included."""

    nan: int = 0
    """NaN elements."""
    posinf: int = 0
    """+inf elements."""
    neginf: int = 0
    """-inf elements."""
    first: tuple[int, ...] | None = None
    """Index of the first of them in the reference's layout, None when there is none or it is not known."""

    @property
    def count(self) -> int:
        """All of them together."""
        return self.nan + self.posinf + self.neginf


@dataclass(frozen=True)
class Measurement:
    """One pair in figures. Error means port - reference, over pairs of real tokens that are finite on both sides."""

    count: int
    """Elements of the reference's activation."""
    valid: int
    """Elements that the error figures rest on: not padded, finite on both sides."""
    relative_l2: float
    """||port - reference|| / ||reference||, L2 norms; 0 for equal tensors, inf when only the reference is 0."""
    error_l2: float
    """||port - reference||."""
    reference_l2: float
    """||reference||."""
    port_l2: float
    """||port||."""
    max_abs: float | None = None
    """Largest |port - reference|; None when estimated."""
    worst: tuple[int, ...] | None = None
    """Index of the first element with it, in the reference's layout; None when nothing differs or is known."""
    worst_reference: float | None = None
    """The reference's value there."""
    worst_port: float | None = None
    """The port's value there."""
    mean_abs: float | None = None
    """Mean of |port - reference|; None when estimated."""
    one_minus_cosine: float | None = None
    """1 - cosine, as (||port - reference||² - (||port|| - ||reference||)²) / (2 ||port|| ||reference||), which
    keeps its digits near 0; None when either norm is 0 or not finite."""
    max_ulp: float | None = None
    """Largest ULP distance in the coarser dtype of the two (`ulp`); None when not two floats, or estimated."""
    mismatch: float | None = None
    """Share of real-token elements that differ at all, 0 to 1; None when estimated."""
    unlike: int = 0
    """Elements, padded ones included, of which one side is not finite and the other is not the same."""
    first_unlike: tuple[int, ...] | None = None
    """Index of the first of them."""
    reference_nonfinite: NonFinite = NonFinite()
    """The reference's non-finite elements."""
    port_nonfinite: NonFinite = NonFinite()
    """The port's non-finite elements."""
    estimated: bool = False
    """Whether the error figures come from digests: the distance of two sketches, right within a third."""

    @property
    def equal(self) -> bool:
        """Whether no element differs."""
        return self.mismatch == 0.0 and self.unlike == 0


@dataclass(frozen=True)
class Side:
    """One side of a pair, as it is stored."""

    stored: np.ndarray
    """Storage array (bits for bfloat16 and float8), in its own shape."""
    dtype: str
    """Logical dtype."""


def measure(
    reference: Side,
    port: Side,
    layout: Layout,
    valid: np.ndarray | None = None,
    *,
    compiled: bool = False,
) -> Measurement:
    """Measure two tensors laid on each other by ``layout``, in blocks: memory does not grow with their size.

    ``valid`` is a bool array that broadcasts to the reference's own shape (`padding.valid_elements`), or None.
    ``compiled`` uses numba where it is installed; figures differ by rounding alone.
    """
    tally, rows = Tally(), ValidRows.of(valid, layout.reference_shape)
    kernel = _kernel() if compiled else None
    fast = (
        kernel is not None
        and reference.dtype == port.dtype
        and reference.dtype in ("float32", "bfloat16")
    )
    ours, theirs = layout.reference(reference.stored), layout.port(port.stored)
    for start, one, other in paired_blocks(ours, theirs, _PIECE if fast else BLOCK):
        for begin, end, ok in (
            rows.runs(start, start + one.size) if rows else [(start, start + one.size, True)]
        ):
            a, b = one[begin - start : end - start], other[begin - start : end - start]
            if fast and ok and kernel is not None:
                kernel.add(tally, a, b, begin, ulp_shift=16 if reference.dtype == "bfloat16" else 0)
            else:
                _add(tally, Side(a, reference.dtype), Side(b, port.dtype), begin, valid=ok)
    return _finish(tally, ours, theirs, reference, port, layout, rows)


def _add(tally: Tally, reference: Side, port: Side, start: int, *, valid: bool) -> None:
    ours, theirs = widen(reference.stored, reference.dtype), widen(port.stored, port.dtype)
    if ours.dtype.kind == "c" or theirs.dtype.kind == "c":
        tally.add(ours.real, theirs.real, start, None, valid=valid)
        ours, theirs = ours.imag, theirs.imag
    tally.add(ours, theirs, start, ulp_dtype(reference.dtype, port.dtype), valid=valid)


def _finish(
    tally: Tally, ours: np.ndarray, theirs: np.ndarray, reference: Side, port: Side, layout: Layout,
    rows: ValidRows | None,
) -> Measurement:  # fmt: skip
    error, norm, other = (
        sqrt(s) for s in (tally.error_squared, tally.reference_squared, tally.port_squared)
    )
    differs = tally.largest > 0
    place = np.unravel_index(tally.worst, ours.shape) if differs else None
    shape = layout.reference_shape
    paired = rows.count if rows else ours.size
    return Measurement(
        count=ours.size,
        valid=tally.finite,
        relative_l2=relative(error, norm),
        error_l2=error,
        reference_l2=norm,
        port_l2=other,
        max_abs=max(tally.largest, 0.0),
        worst=_index(tally.worst, shape) if differs else None,
        worst_reference=_value(ours, place, reference.dtype),
        worst_port=_value(theirs, place, port.dtype),
        mean_abs=tally.error / max(tally.finite, 1),
        one_minus_cosine=one_minus_cosine(tally.error_squared, norm, other),
        max_ulp=tally.ulp if ulp_dtype(reference.dtype, port.dtype) else None,
        mismatch=tally.mismatches / max(paired, 1),
        unlike=tally.unlike,
        first_unlike=_index(tally.first_unlike, shape),
        reference_nonfinite=_nonfinite(tally.reference, shape),
        port_nonfinite=_nonfinite(tally.port, shape),
    )


def relative(error: float, norm: float) -> float:
    """``error`` / ``norm`` with 0 / 0 = 0."""
    if error == 0:
        return 0.0
    return error / norm if norm else float("inf")


def one_minus_cosine(error_squared: float, reference: float, port: float) -> float | None:
    """1 - cosine of two vectors from the square of their distance and their norms, without cancellation."""
    product = 2 * reference * port
    if not product or not isfinite(product):
        return None
    return max(0.0, (error_squared - (port - reference) ** 2) / product)


def _index(flat: int, shape: tuple[int, ...]) -> tuple[int, ...] | None:
    return None if flat < 0 else tuple(int(i) for i in np.unravel_index(flat, shape))


def _value(view: np.ndarray, place: Any, dtype: str) -> float | None:
    if place is None:
        return None
    value = widen(np.asarray(view[place]).reshape(1), dtype)[0]
    return float(abs(value)) if value.dtype.kind == "c" else float(value)


def _nonfinite(found: Specials, shape: tuple[int, ...]) -> NonFinite:
    return NonFinite(found.nan, found.posinf, found.neginf, _index(found.first, shape))


@cache
def _kernel() -> Any:
    """What adds with the compiled kernel, or None where numba is not installed."""
    try:
        from firstdiff.diff import fast_tally
    except ImportError:
        return None
    return fast_tally


def measure_equal(activation: Activation) -> Measurement:
    """What measuring ``activation`` against an equal one would give, without reading either."""
    digest = activation.digest
    assert digest is not None, "equality was found by checksum"
    finite = digest.count - digest.nan - digest.posinf - digest.neginf
    norm = digest.rms * sqrt(finite)
    special = NonFinite(digest.nan, digest.posinf, digest.neginf)
    return Measurement(
        count=digest.count, valid=finite, relative_l2=0.0, error_l2=0.0, reference_l2=norm, port_l2=norm,
        max_abs=0.0, mean_abs=0.0, one_minus_cosine=0.0 if norm else None, mismatch=0.0,
        max_ulp=0.0 if ulp_dtype(activation.dtype, activation.dtype) else None,
        reference_nonfinite=special, port_nonfinite=special,
    )  # fmt: skip


def estimate(reference: Activation, port: Activation) -> Measurement | None:
    """The distance of two digests' sketches, or None when they have none.

    A sketch keeps L2 distances (0.99 ± 0.08 of the true one, measured) for elements in one flat order; it covers
    padded rows, which cannot be told apart afterwards.
    """
    ours, theirs = reference.digest, port.digest
    if ours is None or theirs is None or ours.sketch is None or theirs.sketch is None:
        return None
    finite = [d.count - d.nan - d.posinf - d.neginf for d in (ours, theirs)]
    norm, other = ours.rms * sqrt(finite[0]), theirs.rms * sqrt(finite[1])
    error = float(np.linalg.norm(np.asarray(theirs.sketch) - np.asarray(ours.sketch)))
    sides = [NonFinite(d.nan, d.posinf, d.neginf) for d in (ours, theirs)]
    unlike = max(abs(a - b) for a, b in zip(_kinds(sides[0]), _kinds(sides[1]), strict=True))
    return Measurement(
        count=ours.count, valid=min(finite), relative_l2=relative(error, norm), error_l2=error,
        reference_l2=norm, port_l2=other, one_minus_cosine=one_minus_cosine(error**2, norm, other),
        unlike=unlike, reference_nonfinite=sides[0], port_nonfinite=sides[1], estimated=True,
    )  # fmt: skip


def _kinds(found: NonFinite) -> tuple[int, int, int]:
    return found.nan, found.posinf, found.neginf
