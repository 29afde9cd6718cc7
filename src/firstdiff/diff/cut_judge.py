"""Comparing what crosses a cut: rows of some pairs, out of a trace that may hold little else."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from firstdiff.diff.compare import Comparison
from firstdiff.diff.floor import Floors, coarser, run_dtype
from firstdiff.diff.healing import mark_duplicates, mark_healed
from firstdiff.diff.locate import Finding, locate
from firstdiff.diff.names import wrapper_prefix
from firstdiff.traces.padding import padding_mask

if TYPE_CHECKING:
    from firstdiff.diff.align import Pair
    from firstdiff.diff.row import Row
    from firstdiff.traces import Activation, Trace


class CutJudge:
    """Judges pairs of one reference by its floors. ``port`` is every activation of the port, with or without values."""

    def __init__(self, reference: Trace, port: Sequence[Activation]) -> None:
        self.reference = reference
        self.prefix = wrapper_prefix(a.key.path for a in reference.activations)
        self.compared = 0
        """Pairs judged so far."""
        dtype = coarser(run_dtype(reference.activations), run_dtype(port))
        self._floors = Floors.of_trace(reference, dtype)
        self._mask = padding_mask({n: reference.input_values(n) for n in reference.inputs})

    def name(self, path: str) -> str:
        """``path`` as people say it."""
        return path.removeprefix(self.prefix) or "the result"

    def rows(self, pairs: Iterable[Pair], port: Trace) -> tuple[Row, ...]:
        """A row a pair, in the given order, healed ones marked; ``port`` holds the port's side of each.

        A pair whose port side is not there after all is left out.
        """
        there = {a.key: a for a in port.activations}
        comparison = Comparison(self.reference, port, self._floors, self._mask)
        found = [
            comparison.row(replace(pair, port=there[pair.port.key]), self._short(pair))
            for pair in pairs
            if pair.port.key in there
        ]
        self.compared += len(found)
        return tuple(mark_duplicates(mark_healed(found)))

    def _short(self, pair: Pair) -> str:
        return pair.reference.key.path.removeprefix(self.prefix)


def agree(rows: Iterable[Row]) -> bool:
    """Whether none of ``rows`` is bad: at a cut, nothing has had the time to heal."""
    return not any(row.verdict.bad for row in rows)


def worst(rows: Iterable[Row]) -> float | None:
    """The largest error / floor of ``rows``."""
    scores = [row.verdict.score for row in rows if row.verdict.score is not None]
    return max(scores, default=None)


def first_fault(rows: Sequence[Row]) -> Finding | None:
    """The first divergence of ``rows`` put into words."""
    return locate(sorted(rows, key=lambda row: row.activation.order))
