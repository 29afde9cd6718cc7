"""Bisecting two traces: the same search, with values read instead of runs made. Neither framework is needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from firstdiff.diff.bisection import Bisection, Step, search_depth
from firstdiff.diff.cut_judge import CutJudge, agree, first_fault, worst
from firstdiff.diff.depth import cuts, region, required

if TYPE_CHECKING:
    from firstdiff.diff.align import Pair
    from firstdiff.traces import Trace


class TraceBisection:
    """One search over two open traces."""

    def __init__(
        self, reference: Trace, port: Trace, pairs: Sequence[Pair], on_step: Callable[[Step], None]
    ) -> None:
        self._reference, self._port = reference, port
        self._pairs = pairs
        self._judge = CutJudge(reference, port.activations)
        self._cuts = required(cuts(reference.activations, pairs), reference.path, port.path)
        self._on_step = on_step
        self._steps: list[Step] = []
        self._known: dict[int, bool] = {}

    def search(self) -> Bisection:
        """The result first, then the depth, then the block."""
        end = len(self._cuts) - 1
        if self._free([end])[0]:
            return self._result(summary="The result agrees, so no fault has an effect on it.")
        depth = search_depth(self._free, end, scan=self._scan)
        start, stop = self._cuts[depth.good], self._cuts[depth.bad]
        rows = self._judge.rows(region(self._pairs, start, stop), self._port)
        finding = first_fault(rows)
        block = self._judge.name(start.block)
        notes = [
            f"The order is not monotone: {self._name(cut)} differs and heals later; all cuts were read."
            for cut in depth.healed
        ]
        words = finding.sentence if finding else f"between {block} and {self._name(depth.bad)}."
        return self._result(
            finding=finding,
            rows=rows,
            block=block,
            monotone=not depth.healed,
            summary=f"First divergence: {words}",
            notes=tuple(notes),
        )

    def _result(self, **found: Any) -> Bisection:
        bare = Bisection(
            reference=str(self._reference.path),
            port=str(self._port.path),
            depth=len(self._cuts),
            steps=tuple(self._steps),
            runs=0,
            compared=self._judge.compared,
            finding=None,
            rows=(),
        )
        return replace(bare, **found)

    def _free(self, numbers: Sequence[int]) -> list[bool]:
        return [self._look(number) for number in numbers]

    def _look(self, number: int) -> bool:
        if number not in self._known:
            cut = self._cuts[number]
            rows = self._judge.rows(cut.pairs, self._port)
            self._known[number] = agree(rows)
            step = Step(0, self._question(number), agree(rows), worst(rows), len(rows))
            self._steps.append(step)
            self._on_step(step)
        return self._known[number]

    def _scan(self, later: int) -> int:
        """The last cut after which nothing agrees any more, every one after ``later`` read."""
        agreeing = [k for k in range(later, len(self._cuts) - 1) if self._look(k)]
        return max(agreeing)

    def _question(self, number: int) -> str:
        name = self._name(number)
        return name if name == "the result" else f"what {name} receives"

    def _name(self, number: int) -> str:
        return self._judge.name(self._cuts[number].block)
