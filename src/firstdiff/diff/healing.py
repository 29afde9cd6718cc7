"""Divergences without effect: a layout, a renaming, an offset that nothing depends on. Apart from `locate`."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING

from firstdiff.diff.carrying import Errors, normalises, unscaled
from firstdiff.diff.judge import WARN

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from firstdiff.diff.floor import Floor
    from firstdiff.diff.measure import Measurement
    from firstdiff.diff.row import Row
    from firstdiff.traces.schema import Key

_MARGIN = 4.0
"""A later agreement is evidence only where the error, carried on, would have been so many times the limit."""


def mark_duplicates(rows: Sequence[Row]) -> list[Row]:
    """``rows`` with each divergence that repeats an earlier one's two values (an output that is the next input) marked.

    To be called after `mark_healed`: a value that healed in one place may not have in another.
    """
    first: dict[tuple[object, object], int] = {}
    marked = []
    for row in rows:
        values = _values(row)
        if values is not None and row.diverges:
            earlier = first.setdefault(values, row.activation.order)
            row = row if earlier == row.activation.order else replace(row, duplicate_of=earlier)
        marked.append(row)
    return marked


def _values(row: Row) -> tuple[object, object] | None:
    """What tells two values apart: checksums, else places in the file."""
    if row.pair is None:
        return None
    sides = row.pair.reference, row.pair.port
    digests = [a.digest for a in sides]
    if digests[0] is not None and digests[1] is not None:
        return digests[0].checksum, digests[1].checksum
    return (
        None
        if sides[0].place is None or sides[1].place is None
        else (sides[0].place, sides[1].place)
    )


def mark_healed(rows: Sequence[Row], margin: float = _MARGIN) -> list[Row]:
    """``rows`` (in the reference's execution order) with each divergence that leaves no trace downstream marked.

    It has healed when the results of the innermost module call around it agree, or have themselves healed; where they
    could not have shown the error, those of the next module around that; or when the first module that was
    given the value agrees and no later tensor holds the same error. Without any module around it, when nothing after
    it diverges. A mere scale of what a normalisation is given cannot show behind it, so it never heals. A later
    agreement is evidence where the error would have been ``margin`` times its limit.
    """
    healing = _Healing(rows, margin)
    for row in reversed(rows):
        if row.verdict.bad:
            healing.healed[id(row)] = healing.healer(row)
    return [replace(row, healed=healing.healed.get(id(row), "")) for row in rows]


def undecided(rows: Sequence[Row]) -> bool:
    """Whether a divergence among ``rows``, as `mark_healed` left them, has not healed because the floors of what agrees
    later are too high to show it: finer floors would tell.
    """
    paired = [row for row in rows if row.side != "port"]
    bold = mark_healed(paired, margin=0.0)
    return any(
        now.healed and not row.healed and row.verdict.bad
        for row, now in zip(paired, bold, strict=True)
    )


class _Healing:
    """The rows, indexed by the module call that returned them and by the value that they were given."""

    def __init__(self, rows: Sequence[Row], margin: float) -> None:
        self._margin = margin
        self.rows = [row for row in rows if row.pair is not None]
        self._errors = Errors(self.rows)
        self.healed: dict[int, str] = {}
        """By `id` of the row: the parts of one activation have one order."""
        self._calls: dict[str, list[Row]] = defaultdict(list)
        self._readers: dict[int, list[Row]] = defaultdict(list)
        for row in self.rows:
            digest = row.activation.digest
            if row.key.site == "output":
                self._calls[row.key.path].append(row)
            elif digest is not None:
                self._readers[digest.checksum].append(row)

    def healer(self, row: Row) -> str:
        """Path of the module whose results show that ``row`` had no effect, or ``""``."""
        enclosed = False
        for path in _enclosing(row.key):
            results = self._results(path, row)
            if not results:
                continue
            enclosed = True
            if not self._all_right(results):
                break
            read = path == row.key.path and row.key.site == "input"
            if self._visible(row, results) and not (read and self._carried_on(row)):
                return path or "the model"
        if not enclosed:
            return self._nothing_later(row)
        return self._reader(row)

    def _results(self, path: str, row: Row) -> list[Row]:
        """What the call of the module at ``path`` that was under way at ``row`` returned."""
        later = [
            r for r in self._calls[path]
            if r.activation.order > row.activation.order and r.key.step == row.key.step
        ]  # fmt: skip
        return [r for r in later if r.key.call == later[0].key.call]

    def _all_right(self, rows: Iterable[Row]) -> bool:
        return all(not r.verdict.bad or self.healed.get(id(r)) for r in rows)

    def _reader(self, row: Row) -> str:
        """The innermost module that is given the value first, when its results agree."""
        digest = row.activation.digest
        given = [] if digest is None else self._readers[digest.checksum]
        later = [r for r in given if r.activation.order > row.activation.order]
        if not later or not self._all_right(later):
            return ""
        inner = [r for r in later if r.key.path.startswith(later[0].key.path)]
        reader = max(inner[:8], key=lambda r: r.key.path.count("."))
        results = self._results(reader.key.path, reader)
        if (
            results
            and all(not r.verdict.bad for r in results)
            and self._visible(row, results)
            and not self._carried_on(row)
        ):
            return reader.key.path or "the model"
        return ""

    def _visible(self, row: Row, results: Iterable[Row]) -> bool:
        """Whether any of ``results`` would show the error of ``row``."""
        found = row.measurement
        if found is not None and row.floor is not None and self._is_normalised(row):
            left = unscaled(found)
            if left.error_l2 < WARN * row.floor.norm(left.reference_l2) and not left.unlike:
                return False
            row = replace(row, measurement=left)
        return any(visible(row, result, self._margin) for result in results)

    def _is_normalised(self, row: Row) -> bool:
        """Whether a normalisation is given the value of ``row``."""
        digest = row.activation.digest
        given = [] if digest is None else self._readers[digest.checksum]
        return any(normalises(r.activation) for r in given)

    def _carried_on(self, row: Row) -> bool:
        """Whether a later tensor that has not healed holds the error of ``row``."""
        return any(
            not self.healed.get(id(later)) and _values(later) != _values(row)
            for later in self._errors.containing(row)
        )

    def _nothing_later(self, row: Row) -> str:
        later = [r for r in self.rows if r.activation.order > row.activation.order]
        if not later or not self._all_right(later):
            return ""
        seen = [
            r for r in later
            if r.key.site == "output" and not r.verdict.bad and self._visible(row, [r])
        ]  # fmt: skip
        return seen[-1].key.path or "the model" if seen else ""


def _enclosing(key: Key) -> Iterable[str]:
    """Paths of the modules around a value, innermost first: its own when it is an input."""
    path = key.path
    if key.site == "input":
        yield path
    while path:
        path = path.rpartition(".")[0]
        yield path


def visible(row: Row, result: Row, margin: float = _MARGIN) -> bool:
    """Whether the error of ``row`` would show in ``result``, had it been carried there undiminished.

    A tensor of the same size may be a summand of it (the residual stream), so there the absolute error must show too.
    """
    found, noise = row.measurement, result.floor
    if found is None or row.floor is None or result.measurement is None:
        return result.measurement is not None
    if noise is None:
        return result.measurement.equal
    return _shows(found, result.measurement, noise, margin * WARN)


def _shows(found: Measurement, result: Measurement, noise: Floor, limit: float) -> bool:
    if found.unlike:
        return True
    if found.relative_l2 < limit * noise.relative:
        return False
    return found.count != result.count or found.error_l2 >= limit * noise.norm(result.reference_l2)
