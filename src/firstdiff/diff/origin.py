"""Where the error of a row comes from: inherited from what came in, or added here.

error^2 = inherited^2 + added^2, as relative L2 ||.|| / ||reference||: rounding and faults are taken as independent of
what was wrong before. Inherited is the largest error among the sources of a row, times the gain of the computation
between: how much a relative error of its sources is amplified. The gain is read off the recorded conditioning, the
effect of moving all sources by a known few ulp; without it, it is taken as 1.

Estimates, on which nothing else of a judgement rests: with one source much more wrong than the others the
inherited part is rather too large, so that what is called added was added.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import hypot, sqrt
from typing import TYPE_CHECKING, Literal

from firstdiff.diff.local import moved_by
from firstdiff.traces.dtypes import unit_roundoff
from firstdiff.traces.spread import CONDITIONING, Spread, from_tables, names

if TYPE_CHECKING:
    from collections.abc import Sequence

    from firstdiff.diff.row import Row
    from firstdiff.traces import Trace
    from firstdiff.traces.schema import Key

_LEAST_GAIN, _MOST_GAIN = 0.1, 1e4


@dataclass(frozen=True)
class Origin:
    """The error of one row in two parts, each as relative L2."""

    inherited: float
    """Carried over from its sources."""
    added: float
    """Made here: by the computation between the sources and this value, fault or rounding."""
    score: float | None
    """`added` over what it is known from: the rounding of this computation by itself, and half of `inherited`, since
    a gain is known no better. None where that rounding was not recorded."""
    gain: float
    """How many times a relative error of the sources shows here."""
    basis: Literal["same value", "conditioning", "gain unknown", "no source"]
    """What the gain rests on."""
    source: str = ""
    """The source with the largest error, as people name it."""


def with_origins(rows: Sequence[Row], reference: Trace, dtype: str) -> tuple[Row, ...]:
    """``rows`` (in the reference's order) with the origin of every measured floating-point error.

    ``dtype`` is that of the coarser run, whose local floors are looked for in ``reference``.
    """
    sources = _Sources([row for row in rows if row.pair is not None])
    local = _Local(reference, dtype)
    return tuple(
        row if origin is None else replace(row, origin=origin)
        for row in rows
        for origin in [_origin(row, sources, local)]
    )


def _origin(row: Row, sources: _Sources, local: _Local) -> Origin | None:
    error = relative_error(row)
    if error is None:
        return None
    same = sources.same(row)
    if same is not None:
        given = relative_error(same) or 0.0
        if _same_port(row, same):
            return Origin(error, 0.0, 0.0, 1.0, "same value", title(same))
        return _parts(error, given, 1.0, "same value", title(same), None)
    found = [(e, r) for r in sources.of(row) if (e := relative_error(r)) is not None]
    if not found:
        return _parts(error, 0.0, 1.0, "no source", "", local.rounding(row))
    worst, source = max(found, key=lambda pair: pair[0])
    gain = local.gain(row)
    basis: Literal["conditioning", "gain unknown"] = (
        "gain unknown" if gain is None else "conditioning"
    )
    return _parts(error, worst, gain or 1.0, basis, title(source), local.rounding(row))


def _parts(
    error: float,
    given: float,
    gain: float,
    basis: Literal["same value", "conditioning", "gain unknown", "no source"],
    source: str,
    rounding: float | None,
) -> Origin:
    inherited = min(error, given * gain)
    added = sqrt(max(0.0, error**2 - inherited**2))
    score = None if not rounding else added / hypot(rounding, inherited / 2)
    return Origin(inherited, added, score, gain, basis, source if inherited else "")


def relative_error(row: Row) -> float | None:
    """Relative L2 of a measured floating-point pair; None for anything else, or where it has no meaning."""
    found = row.measurement
    if found is None or row.pair is None or row.verdict.kind in ("shape", "dtype", "non-finite"):
        return None
    if not unit_roundoff(row.activation.dtype) or found.relative_l2 == float("inf"):
        return None
    return found.relative_l2


def title(row: Row) -> str:
    """`layers.0.mlp output`."""
    return f"{row.name or 'the model'} {row.label}"


def _same_port(row: Row, earlier: Row) -> bool:
    """Whether the port passes on its own value, too."""
    assert row.pair is not None, "a measured row"
    assert earlier.pair is not None, "a paired row"
    digests = row.pair.port.digest, earlier.pair.port.digest
    if digests[0] is None or digests[1] is None:
        return False
    return digests[0].checksum == digests[1].checksum


class _Sources:
    """What each value was computed from, as far as it was recorded."""

    def __init__(self, rows: list[Row]) -> None:
        self._rows = rows
        self._places = {id(row): place for place, row in enumerate(rows)}
        self._first: dict[tuple[int, int], Row] = {}
        for row in rows:
            checksum = _checksum(row)
            if checksum is not None:
                self._first.setdefault((checksum, row.key.step), row)

    def same(self, row: Row) -> Row | None:
        """The first earlier row whose reference holds the very same value."""
        checksum = _checksum(row)
        first = None if checksum is None else self._first.get((checksum, row.key.step))
        return None if first is row or first is None else first

    def of(self, row: Row) -> list[Row]:
        """The rows that the value of ``row`` was computed from: its module's inputs, or what was made around it."""
        key = row.key
        region = key.path if key.site == "output" else _around(key.path)
        inputs, inside = self._since_call(row, region)
        if key.site == "output" and not inside:
            return inputs
        taken = {_checksum(r) for r in inside if r.key.site == "input"}
        made = [
            r for r in inside
            if (r.key.site == "output" and _checksum(r) not in taken)
            or (r.key.site == "input" and self.same(r) is None)
        ]  # fmt: skip
        return [*inputs, *made]

    def _since_call(self, row: Row, region: str) -> tuple[list[Row], list[Row]]:
        """Inputs of the call of ``region`` that was under way at ``row``, and its children's values until ``row``."""
        inputs: list[Row] = []
        inside: list[Row] = []
        for place in range(self._places[id(row)] - 1, -1, -1):
            earlier = self._rows[place]
            key = earlier.key
            if key.step != row.key.step:
                break
            if key.path == region and key.site == "input":
                if inputs and key.call != inputs[0].key.call:
                    break
                inputs.append(earlier)
            elif inputs or (key.path == region and region):
                break
            elif _parent(key.path, region):
                inside.append(earlier)
        return inputs, inside


def _checksum(row: Row) -> int | None:
    return None if row.activation.digest is None else row.activation.digest.checksum


def _around(path: str) -> str:
    """The module around ``path``; a stack such as `layers` is none."""
    region, _, own = path.rpartition(".")
    return region.rpartition(".")[0] if own.isdigit() else region


def _parent(path: str, region: str) -> bool:
    """Whether ``path`` is a child of ``region``."""
    return path != region and _around(path) == region


class _Local:
    """The local floors of a reference: gains, and what one computation rounds by itself."""

    def __init__(self, reference: Trace, dtype: str) -> None:
        self._native, self._moved = (_table(reference, name) for name in (dtype, CONDITIONING))
        self._classes = {(a.key.path, a.key.site): a for a in reference.activations}

    def gain(self, row: Row) -> float | None:
        """Relative effect here of a relative change of the sources; None where it was not recorded."""
        moved, size = self._moved.get(row.activation.order), _rms(row)
        if moved is None or not moved.rms or not size:
            return None
        found = moved.rms / size / self._amplitude(row.key)
        return min(max(found, _LEAST_GAIN), _MOST_GAIN)

    def rounding(self, row: Row) -> float | None:
        """Relative L2 of what this computation rounds by itself, on both sides; None where it was not recorded."""
        native, moved = (t.get(row.activation.order) for t in (self._native, self._moved))
        size = _rms(row)
        if native is None or not size or row.floor is None:
            return None
        made = hypot(sqrt(2) * native.rms, 0.0 if moved is None else moved.rms) / size
        return max(made, row.floor.unit / 4)

    def _amplitude(self, key: Key) -> float:
        """How far the conditioning run moved the sources of ``key``."""
        return moved_by(self._classes.get((key.path, "input")) if key.site == "output" else None)


def _rms(row: Row) -> float:
    found = row.measurement
    return found.reference_l2 / sqrt(found.valid) if found is not None and found.valid else 0.0


def _table(trace: Trace, name: str) -> dict[int, Spread]:
    rows, groups = (trace.table(table) for table in names(name))
    return {} if rows is None or groups is None else from_tables(rows, groups)
