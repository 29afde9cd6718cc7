"""From a pair to a row: layout, measurement and verdict of two activations."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from firstdiff.diff.cropping import crops
from firstdiff.diff.inference import can_help, nearest_layout
from firstdiff.diff.judge import (
    Verdict,
    judge,
    judge_exact,
    judge_kinds,
    judge_shapes,
)
from firstdiff.diff.layout import Layout, broadcast, candidates, identity, repeats
from firstdiff.diff.leaves import kind_of
from firstdiff.diff.masks import alike_by_digest, is_mask, truth
from firstdiff.diff.measure import Measurement, Side, estimate, measure, measure_equal
from firstdiff.diff.row import Row
from firstdiff.diff.usual_layouts import preferred
from firstdiff.traces.dtypes import unit_roundoff
from firstdiff.traces.padding import valid_elements

if TYPE_CHECKING:
    import numpy as np

    from firstdiff.diff.align import Pair
    from firstdiff.diff.floor import Floor, Floors
    from firstdiff.traces import Trace


@dataclass(frozen=True)
class Comparison:
    """Two traces, and what every pair of them is judged by."""

    reference: Trace
    """The reference."""
    port: Trace
    """The port."""
    floors: Floors
    """The reference's floors for the port's dtype."""
    padding: np.ndarray | None = None
    """bool[batch, tokens], True at real tokens; None without padding."""
    compiled: bool = False
    """Whether to measure with numba."""

    def row(self, pair: Pair, name: str) -> Row:
        """The row of one pair; one that differs says what its pair knows of another way to lay them."""
        row = self._row(pair, name)
        if row.verdict.kind == "shape":
            row = self._cropped(pair, row)
        return row.noted(pair.hint) if row.verdict.bad else row

    def laid(self, pair: Pair, name: str, layout: Layout) -> Row:
        """The row of two floating-point activations, laid on each other by ``layout``."""
        found = self._measure(*self._sides(pair), layout)
        floor = self._floor(pair, found)
        verdict = judge(found, floor, pair.reference, pair.port)
        return Row(name, verdict, pair, layout=layout, measurement=found, floor=floor)

    def _cropped(self, pair: Pair, row: Row) -> Row:
        """``row``, a difference of shapes, or what is shared where one side is longer and the rest is filler."""
        shared = [
            (crop, self._row(crop.pair, row.name))
            for crop in crops(pair, self.reference, self.port)
        ]
        filled = [(crop, found) for crop, found in shared if crop.filler]
        for crop, found in sorted(filled, key=lambda item: item[1].verdict.bad):
            return found.noted(f"{crop.words}, the rest is filler")
        same = next((crop.words for crop, found in shared if not found.verdict.bad), "")
        if not same and _are_choices(pair):
            return replace(row, verdict=Verdict("not comparable", notes=row.verdict.notes))
        if not same:
            return row
        notes = (f"{'; '.join(row.verdict.notes)}; {same} agrees",)
        return replace(row, verdict=replace(row.verdict, notes=notes))

    def _row(self, pair: Pair, name: str) -> Row:
        ours, theirs = pair.reference, pair.port
        if _same(pair):
            return Row(
                name,
                Verdict("agrees", 0.0),
                pair,
                layout=identity(ours.shape),
                measurement=measure_equal(ours),
            )
        if ours.place is None or theirs.place is None:
            return self._estimated(pair, name)
        if is_mask(ours) and is_mask(theirs):
            row = self._masks(pair, name)
            if row is not None:
                return row
        floats = [unit_roundoff(a.dtype) > 0 for a in (ours, theirs)]
        return (
            self._floats(pair, name) if all(floats) else self._exact(pair, name, mixed=any(floats))
        )

    def _sides(self, pair: Pair) -> tuple[Side, Side]:
        ours, theirs = pair.reference, pair.port
        return Side(self.reference.stored(ours), ours.dtype), Side(
            self.port.stored(theirs), theirs.dtype
        )

    def _valid(self, shape: tuple[int, ...]) -> np.ndarray | None:
        return valid_elements(shape, self.padding)

    def _measure(self, ours: Side, theirs: Side, layout: Layout) -> Measurement:
        valid = self._valid(layout.reference_shape)
        return measure(ours, theirs, layout, valid, compiled=self.compiled)

    def _floor(self, pair: Pair, found: Measurement) -> Floor:
        return self.floors.of(pair.reference, pair.port, found.reference_l2, found.valid)

    def _floats(self, pair: Pair, name: str) -> Row:
        fitting = candidates(pair.reference.shape, pair.port.shape)
        if not fitting:
            return self._broadcast(pair, name)
        plain = self.laid(pair, name, fitting[0])
        assert plain.floor is not None, "floats have a floor"
        if not plain.verdict.bad or not can_help(
            pair.reference.digest, pair.port.digest, plain.floor.relative
        ):
            return plain
        valid = self._valid(pair.reference.shape)
        better = nearest_layout(*self._sides(pair), fitting, valid)
        return plain if better is fitting[0] else preferred(plain, self.laid(pair, name, better))

    def _broadcast(self, pair: Pair, name: str) -> Row:
        """Floats of different sizes: one row for all on one side, right or wrong, or a wrong shape."""
        layout = broadcast(pair.reference.shape, pair.port.shape)
        if layout is not None:
            row = self.laid(pair, name, layout)
            ours, theirs = (side.stored for side in self._sides(pair))
            longer, other = (theirs, ours) if theirs.size > ours.size else (ours, theirs)
            if not row.verdict.bad or repeats(longer, other.shape):
                return row
        return Row(name, judge_shapes(pair.reference, pair.port), pair)

    def _exact(self, pair: Pair, name: str, *, mixed: bool) -> Row:
        """Integers and booleans, or an integer against a float (``mixed``)."""
        layout = _plain(pair)
        if layout is None:
            return Row(name, judge_shapes(pair.reference, pair.port), pair)
        found = self._measure(*self._sides(pair), layout)
        decide = judge_kinds if mixed else judge_exact
        return Row(
            name, decide(found, pair.reference, pair.port), pair, layout=layout, measurement=found
        )

    def _masks(self, pair: Pair, name: str) -> Row | None:
        """Both sides read as truth values; None when either is no mask after all."""
        seen = [truth(side) for side in self._sides(pair)]
        layout = _plain(pair)
        if seen[0] is None or seen[1] is None:
            return None
        if layout is None:
            return Row(name, judge_shapes(pair.reference, pair.port), pair)
        ours, theirs = Side(seen[0], "bool"), Side(seen[1], "bool")
        found = self._measure(ours, theirs, layout)
        verdict = judge_exact(found, pair.reference, pair.port)
        if verdict.bad and self._measure(ours, Side(~seen[1], "bool"), layout).equal:
            verdict = Verdict(
                "diverges", None, "FAIL", ("the port's mask is the reference's inverse",)
            )
        return Row(name, verdict, pair, layout=layout, measurement=found)

    def _estimated(self, pair: Pair, name: str) -> Row:
        """A pair of which at least one side kept its digest alone."""
        ours, theirs = pair.reference, pair.port
        layout, found = _plain(pair), estimate(ours, theirs)
        if layout is None:
            return Row(name, judge_shapes(ours, theirs), pair)
        if found is None:
            why = "no elements were kept, and no sketch"
            return Row(name, Verdict("not comparable", notes=(why,)), pair)
        if is_mask(ours) and is_mask(theirs) and layout.kind != "broadcast":
            alike = alike_by_digest(ours, theirs)
            if alike is not None:
                return _mask_row(name, pair, layout, found, alike=alike)
        if not unit_roundoff(ours.dtype) or not unit_roundoff(theirs.dtype):
            equal = found.error_l2 <= 1e-9 * max(found.reference_l2, 1.0)
            verdict = (
                Verdict("agrees") if equal else Verdict("diverges", None, "FAIL", ("by digest",))
            )
            return Row(name, verdict, pair, layout=layout, measurement=found)
        if layout.kind == "broadcast":
            return Row(
                name, Verdict("not comparable", notes=("shapes differ, no elements kept",)), pair
            )
        floor = self._floor(pair, found)
        verdict = judge(found, floor, ours, theirs)
        ways = len(candidates(ours.shape, theirs.shape))
        open_question = ours.shape != theirs.shape and verdict.kind == "diverges" and ways > 1
        if open_question and can_help(ours.digest, theirs.digest, floor.relative):
            why = f"no elements were kept to choose among {ways} layouts, and statistics agree"
            return Row(name, Verdict("not comparable", notes=(why,)), pair)
        return Row(name, verdict, pair, layout=layout, measurement=found, floor=floor)


def _mask_row(name: str, pair: Pair, layout: Layout, found: Measurement, *, alike: bool) -> Row:
    """Two additive masks that hide alike by their digests, or not."""
    if not alike:
        verdict = Verdict("diverges", None, "FAIL", ("by digest",))
        return Row(name, verdict, pair, layout=layout, measurement=found)
    equal = replace(found, relative_l2=0.0, error_l2=0.0, unlike=0)
    return Row(name, Verdict("agrees"), pair, layout=layout, measurement=equal)


def _are_choices(pair: Pair) -> bool:
    """Whether only where they stand makes a pair of integers of other lengths: equal ones alone tell it is one."""
    kinds = {kind_of(pair.reference), kind_of(pair.port)}
    return pair.leaf_evidence == "position" and kinds == {"integer"}


def _plain(pair: Pair) -> Layout | None:
    """The identity, a plain reshape or a broadcast, whichever comes first; None when no one fits."""
    fitting = candidates(pair.reference.shape, pair.port.shape)
    return fitting[0] if fitting else broadcast(pair.reference.shape, pair.port.shape)


def _same(pair: Pair) -> bool:
    """Whether dtype, shape and bytes are equal by checksum."""
    ours, theirs = pair.reference, pair.port
    if (
        ours.digest is None
        or theirs.digest is None
        or (ours.dtype, ours.shape) != (theirs.dtype, theirs.shape)
    ):
        return False
    return ours.digest.checksum == theirs.digest.checksum
