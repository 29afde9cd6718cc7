"""Bisecting two traces: the same search, with values read instead of runs made. Neither framework is needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from firstdiff.bisection_inside import paths_of, wrong_weights
from firstdiff.diff.bisection import Bisection, Step, search_depth
from firstdiff.diff.cut_judge import CutJudge, agree, first_fault, worst
from firstdiff.diff.depth import cuts, region, required
from firstdiff.diff.inside.zoomed import zoomed

if TYPE_CHECKING:
    from firstdiff.diff.align import Pair
    from firstdiff.diff.depth import Cut
    from firstdiff.diff.locate import Finding
    from firstdiff.diff.row import Row
    from firstdiff.diff.weights.evidence import Weighing
    from firstdiff.traces import Trace


class TraceBisection:
    """One search over two open traces."""

    def __init__(
        self,
        reference: Trace,
        port: Trace,
        pairs: Sequence[Pair],
        on_step: Callable[[Step], None],
        weighing: Weighing | str | None = None,
        functions: bool = True,
    ) -> None:
        self._reference, self._port = reference, port
        self._weighing, self._functions = weighing, functions
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
        finding, rows = self._inside(start, stop)
        block = self._judge.name(start.block)
        notes = [
            f"The order is not monotone: {self._name(cut)} differs and heals later; all cuts were read."
            for cut in depth.healed
        ]
        words = finding.sentence if finding else f"between {block} and {self._name(depth.bad)}."
        return self._result(
            finding=finding,
            rows=rows,
            **self._below(finding, rows),
            block=block,
            monotone=not depth.healed,
            summary=f"First divergence: {words}",
            notes=tuple(notes),
        )

    def _inside(self, start: Cut, stop: Cut) -> tuple[Finding | None, tuple[Row, ...]]:
        """The first fault between two neighbouring cuts.

        Where that is something that every layer receives alike (a mask, a rotary table), it lies where that is made.
        """
        rows = self._judge.rows(region(self._pairs, start, stop), self._port)
        self._told(f"everything in {self._judge.name(start.block)}", rows)
        finding = first_fault(rows)
        if finding is None or finding.order not in {p.reference.order for p in start.sides}:
            return finding, rows
        first = next(cut for cut in self._cuts if cut.sides)
        pairs = {id(pair): pair for pair in region(self._pairs, self._cuts[0], first)}
        pairs |= {id(pair): pair for pair in first.sides}
        every = sorted(pairs.values(), key=lambda pair: pair.reference.order)
        above = self._judge.rows(every, self._port)
        self._told("what is made before the layers", above)
        found = first_fault(above)
        return (finding, rows) if found is None else (found, above)

    def _below(self, finding: Finding | None, rows: tuple[Row, ...]) -> dict[str, Any]:
        """What is wrong inside the module: its weights, or a function, where both traces look inside modules.

        All before the first fault agrees, so the port's functions were given right values in its own run.
        """
        weights = wrong_weights(self._weighing, finding, rows)
        if weights or finding is None or finding.where == "input" or not self._functions:
            return {"weights": weights}
        sides = paths_of(finding.region, self._pairs, self._reference, self._port.activations)
        traces = (self._reference, self._port)
        deep = (
            any(a.key.path in paths for a in trace.deeper)
            for trace, paths in zip(traces, sides, strict=True)
        )
        return {"inside": zoomed(finding.region, sides, rows, *traces)} if all(deep) else {}

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
            self._known[number] = self._told(self._question(number), rows)
        return self._known[number]

    def _told(self, question: str, rows: Sequence[Row]) -> bool:
        step = Step(0, question, agree(rows), worst(rows), len(rows))
        self._steps.append(step)
        self._on_step(step)
        return step.agrees

    def _scan(self, later: int) -> int:
        """The last cut after which nothing agrees any more, every one after ``later`` read."""
        agreeing = [k for k in range(later, len(self._cuts) - 1) if self._look(k)]
        return max(agreeing)

    def _question(self, number: int) -> str:
        name = self._name(number)
        return name if name == "the result" else f"what {name} receives"

    def _name(self, number: int) -> str:
        return self._judge.name(self._cuts[number].block)
