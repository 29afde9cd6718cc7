"""Root mean squares of an error by whole tensor, token row and channel, and the tables that keep them.

On the ground floor, because local floors are measured by the tracer and read by the differ, and both must
cut a tensor the same way: a row is a place along every axis but the last, a column a place along the last.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

TABLE = np.dtype(
    [
        ("order", "<i8"),
        ("rms", "<f8"),
        ("count", "<i8"),
        ("first", "<i8"),
        ("rows", "<i8"),
        ("columns", "<i8"),
    ]
)
"""One row an activation: its order, rms over ``count`` elements, and where its groups lie in the companion table."""
GROUPS = np.dtype([("rms", "<f4")])
"""The companion: root mean squares of all rows, then of all columns, of one activation after the other."""
SMALLEST_GROUP = 16
"""Rows or columns of fewer elements are no groups: the rms of so few is not steady."""
_FILL = 1e37
"""Larger values fill a mask (the lowest number of a dtype): they differ by dtype, not by rounding."""
_PIECE = 1 << 14
"""Elements at a time: in float64 they fit in a core's second-level cache."""
_NONE = np.zeros(0)


@dataclass(frozen=True)
class Spread:
    """Root mean squares of one quantity over one tensor, over real tokens with finite values."""

    rms: float
    """Over the whole tensor; 0 when nothing counts."""
    count: int
    """Elements that count."""
    rows: np.ndarray
    """float64[rows], 0 where nothing counts; empty when the tensor has no rows of `SMALLEST_GROUP` elements."""
    columns: np.ndarray
    """float64[columns], likewise."""
    carriers: Carriers | None = None
    """How many elements carry it; None where that was not asked."""

    @property
    def whole(self) -> Spread:
        """The same without groups."""
        return Spread(self.rms, self.count, _NONE, _NONE)


@dataclass(frozen=True)
class Carriers:
    """(sum of y^2)^2 / sum of y^4: how many elements of equal size would carry as much. Where one is far larger than
    the others it is about 1, and the root mean square of what rounding does to them is that one's luck.
    """

    whole: float
    """Over the whole tensor; infinite where all is zero."""
    rows: np.ndarray
    """float64[rows], as in `Spread`."""
    columns: np.ndarray
    """float64[columns], as in `Spread`."""


def spreads(
    value: np.ndarray, truth: np.ndarray, valid: np.ndarray | None = None
) -> tuple[Spread, Spread]:
    """The spreads of ``value - truth`` and of ``truth`` (with its carriers), two arrays of one shape, in float64.

    ``valid`` is a bool array that broadcasts to the shape (`padding.valid_elements`), None for all. Elements
    that are not finite in ``value`` or fill a mask in ``truth`` do not count. Works in pieces of bounded size.
    """
    sums = _summed(value, truth, valid, 2)
    return sums.spread(0), replace(sums.spread(1), carriers=sums.carriers())


def error_spread(value: np.ndarray, truth: np.ndarray, valid: np.ndarray | None = None) -> Spread:
    """The first of `spreads`, without the cost of the second."""
    return _summed(value, truth, valid, 1).spread(0)


def no_error(value: np.ndarray, valid: np.ndarray | None = None) -> Spread:
    """`error_spread` of two equal arrays, without groups."""
    if not (valid is None or valid.all()) or not _is_plain(value):
        return error_spread(value, value, valid).whole
    return Spread(0.0, value.size, _NONE, _NONE)


def _summed(
    value: np.ndarray, truth: np.ndarray, valid: np.ndarray | None, quantities: int
) -> _Sums:
    width = max(truth.shape[-1], 1) if truth.ndim else 1
    ours, theirs = truth.reshape(-1, width), value.reshape(-1, width)
    use = None if valid is None else np.broadcast_to(valid, truth.shape).reshape(-1, width)
    sums = _Sums(len(ours), width, quantities)
    step = max(1, _PIECE // width)
    for start in range(0, len(ours), step):
        piece = slice(start, start + step)
        sums.add(piece, theirs[piece], ours[piece], None if use is None else use[piece])
    return sums


class _Sums:
    """Sums of squares of the error (0) and the truth (1), and of the truth's fourth powers, by row and column."""

    def __init__(self, rows: int, columns: int, quantities: int) -> None:
        self.rows, self.columns = np.zeros((quantities, rows)), np.zeros((quantities, columns))
        self.row_counts, self.column_counts = np.zeros(rows), np.zeros(columns)
        self.row_fourths, self.column_fourths = np.zeros(rows), np.zeros(columns)
        self._room = np.empty((2, max(1, _PIECE // columns), columns))

    def add(self, piece: slice, x: np.ndarray, y: np.ndarray, valid: np.ndarray | None) -> None:
        if (valid is None or valid.all()) and self._added_whole(piece, x, y):
            self.row_counts[piece] = x.shape[1]
            self.column_counts += len(x)
            return
        kind = np.complex128 if np.iscomplexobj(x) or np.iscomplexobj(y) else np.float64
        x, y = x.astype(kind), y.astype(kind)
        use = np.isfinite(x) & (np.abs(y) < _FILL)  # false for NaN and infinity as well
        if valid is not None:
            use &= valid
        x, y = np.where(use, x, 0), np.where(use, y, 0)
        self.row_counts[piece] = use.sum(1)
        self.column_counts += use.sum(0)
        both = np.abs(np.stack((x - y, y)[: len(self.rows)])) ** 2
        self.rows[:, piece] = np.add.reduce(both, 2)
        self.columns += np.add.reduce(both, 1)
        if len(both) > 1:
            self._add_fourths(piece, both[1])

    def _added_whole(self, piece: slice, x: np.ndarray, y: np.ndarray) -> bool:
        """Add real numbers that are finite and no fill, as their sums of squares show; False where some are not."""
        if x.dtype.kind != "f" or y.dtype.kind != "f" or not x.size:
            return False
        asked = len(self.rows)
        both = self._room[:asked, : len(x)]
        with np.errstate(over="ignore", invalid="ignore"):
            np.subtract(x, y, out=both[0])
            both[0] *= both[0]
            if asked > 1:
                np.multiply(y, y, out=both[1], dtype=np.float64)
            sums = np.add.reduce(both, 2)
        small = (sums[1] < _FILL**2).all() if asked > 1 else _is_plain(y)
        if not small or not np.isfinite(sums[0]).all():
            return False
        self.rows[:, piece] = sums
        self.columns += np.add.reduce(both, 1)
        if asked > 1:
            self._add_fourths(piece, both[1])
        return True

    def _add_fourths(self, piece: slice, squares: np.ndarray) -> None:
        """Of the truth, whose ``squares`` are overwritten."""
        squares *= squares
        np.add.reduce(squares, 1, out=self.row_fourths[piece])
        self.column_fourths += np.add.reduce(squares, 0)

    def carriers(self) -> Carriers:
        """Of the truth."""
        rows, columns = self.rows[1], self.columns[1]
        whole = _carried(rows.sum(keepdims=True), self.row_fourths.sum(keepdims=True))
        return Carriers(
            float(whole[0]),
            _carried(rows, self.row_fourths),
            _carried(columns, self.column_fourths),
        )

    def spread(self, number: int) -> Spread:
        count = int(self.row_counts.sum())
        rms = float(np.sqrt(self.rows[number].sum() / count)) if count else 0.0
        rows, columns = len(self.row_counts), len(self.column_counts)
        return Spread(
            rms,
            count,
            _root(self.rows[number], self.row_counts)
            if columns >= SMALLEST_GROUP and rows > 1
            else _NONE,
            _root(self.columns[number], self.column_counts)
            if rows >= SMALLEST_GROUP and columns > 1
            else _NONE,
        )


def _is_plain(numbers: np.ndarray) -> bool:
    """Whether every one of real ``numbers`` is finite and no fill."""
    if numbers.dtype.kind != "f" or not numbers.size:
        return False
    return bool(numbers.min() > -_FILL and numbers.max() < _FILL)


def _carried(squares: np.ndarray, fourths: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        found = squares**2 / fourths
    return np.asarray(np.where(fourths > 0, found, np.inf))


def _root(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    return np.asarray(np.sqrt(sums / np.maximum(counts, 1)))


def to_tables(found: Mapping[int, Spread]) -> tuple[np.ndarray, np.ndarray]:
    """(dtype `TABLE`, dtype `GROUPS`) of spreads by the activation's order. Groups of zeros are left out."""
    rows, groups, first = [], [], 0
    for order, spread in sorted(found.items()):
        kept = spread if spread.rms else spread.whole
        rows.append(
            (order, kept.rms, kept.count, first, len(kept.rows), len(kept.columns)),
        )
        groups += [kept.rows, kept.columns]
        first += len(kept.rows) + len(kept.columns)
    flat = np.concatenate(groups) if groups else _NONE
    companion = np.zeros(len(flat), GROUPS)
    companion["rms"] = flat
    return np.array(rows, TABLE), companion


def from_tables(rows: np.ndarray, groups: np.ndarray) -> dict[int, Spread]:
    """The spreads that `to_tables` wrote, by order; what points outside the companion loses its groups."""
    values = groups["rms"]
    return {int(row["order"]): _read(row, values) for row in rows}


def _read(row: np.void, values: np.ndarray) -> Spread:
    first, middle = int(row["first"]), int(row["first"] + row["rows"])
    last = middle + int(row["columns"])
    whole = Spread(float(row["rms"]), int(row["count"]), _NONE, _NONE)
    if not 0 <= first <= middle <= last <= len(values):
        return whole
    return Spread(
        whole.rms,
        whole.count,
        values[first:middle].astype(np.float64),
        values[middle:last].astype(np.float64),
    )


def names(dtype: str) -> tuple[str, str]:
    """Names of the two tables of ``dtype``; `conditioning` is the one for perturbed inputs."""
    return f"floor/local/{dtype}", f"floor/groups/{dtype}"


CONDITIONING = "conditioning"
"""In place of a dtype: the spread of float64 results when inputs move by a few ulp."""
