"""Bisecting a subject: a question is a run that records a cut, or goes on from one with the reference's values."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from firstdiff.bisection_inside import Spotted, look_inside, paths_of, wrong_weights
from firstdiff.bisection_local import is_barely, on_right_inputs
from firstdiff.diff.bisection import Bisection, Step, last_fault, search_depth
from firstdiff.diff.cut_judge import CutJudge, agree, first_fault, worst
from firstdiff.diff.cut_values import CutValues
from firstdiff.diff.depth import cuts, region, required

if TYPE_CHECKING:
    from firstdiff.diff.align import Pair
    from firstdiff.diff.row import Row
    from firstdiff.diff.weights.evidence import Weighing
    from firstdiff.partial_runs import PartialRuns
    from firstdiff.traces import Activation, Trace


class SubjectBisection:
    """One search over one subject."""

    def __init__(
        self,
        reference: Trace,
        runs: PartialRuns,
        listing: Sequence[Activation],
        pairs: Sequence[Pair],
        on_step: Callable[[Step], None],
        progress: Callable[[str], None],
        weighing: Weighing | str | None = None,
        functions: bool = True,
    ) -> None:
        self._reference, self._runs, self._pairs = reference, runs, pairs
        self._listing, self._weighing, self._functions = listing, weighing, functions
        self._on_step, self._progress = on_step, progress
        self._judge = CutJudge(reference, listing)
        found = cuts(reference.activations, pairs)
        self._cuts = required(found, reference.path, runs.subject.name or "the port")
        self._values = CutValues(reference, self._cuts)
        self._end = len(self._cuts) - 1
        self._steps: list[Step] = []
        self._notes: list[str] = []
        self._with_sides = False

    def search(self) -> Bisection:
        """The result first, then the first fault's depth and place, then the last fault's."""
        if self._free_run():
            return self._result(
                summary="The result agrees, so no fault has an effect on it.", beyond="none"
            )
        depth = search_depth(self._free, self._end)
        for cut in depth.healed:
            self._notes.append(
                f"{self._name(cut)} receives something else, which has no effect: it agrees again further on."
            )
        good, spotted = depth.good, self._inside(depth.good, depth.bad)
        if spotted.finding is None and good:
            good, spotted = self._before(good, spotted)
        spotted = self._sharpened(good, spotted)
        finding = spotted.finding
        last = self._last(depth.good, depth.bad)
        block = self._judge.name(self._cuts[good].block)
        words = finding.sentence if finding else f"between {block} and {self._name(depth.bad)}."
        beyond = "unknown" if last is None else "none" if last <= depth.good else "faults"
        return self._result(
            finding=finding,
            rows=spotted.rows,
            **self._below(spotted),
            block=block,
            last_block=None if last is None else self._judge.name(self._cuts[last].block),
            beyond=beyond,
            monotone=not depth.healed,
            summary=f"First divergence: {words}",
        )

    def _free_run(self) -> bool:
        """The port's own run: does its result agree? Also what the layers receive alike, and in which layout."""
        sides = self._values.first_sides
        trace = self._run([*self._cuts[-1].pairs, *sides, *self._values.first_line])
        with trace:
            self._values.learn(self._judge.rows([*self._values.first_line, *sides], trace), trace)
            return self._told("free run, the result", self._judge.rows(self._cuts[-1].pairs, trace))

    def _free(self, numbers: Sequence[int]) -> list[bool]:
        """Whether each cut agrees in the port's own run; one run."""
        wanted = [pair for number in numbers for pair in self._cuts[number].pairs]
        answers = []
        with self._run(wanted) as trace:
            for number in numbers:
                rows = self._judge.rows(self._cuts[number].pairs, trace)
                self._values.learn(rows, trace)
                question = f"free run, what {self._name(number)} receives"
                answers.append(self._told(question, rows))
        return answers

    def _inside(self, good: int, bad: int) -> Spotted:
        """The first fault between two neighbouring cuts: the block goes on from the reference's values.

        Where what the layers receive alike (masks, rotary tables) differs too, a second run puts that right as well:
        if the block is right then, the fault lies where those were made.
        """
        start, stop = self._cuts[good], self._cuts[bad]
        pairs = region(self._pairs, start, stop)
        found = self._block(good, pairs, "")
        sides = self._side_keys(good)
        if not any(row.key in sides and row.verdict.bad for row in found.rows):
            return found
        self._with_sides = True
        rest = [pair for pair in pairs if pair.reference.key not in sides]
        again = self._block(good, rest, " and of what every layer receives alike")
        if again.finding is not None:
            self._with_sides = False
            return again
        return self._sources() or found

    def _before(self, good: int, spotted: Spotted) -> tuple[int, Spotted]:
        """Where a block is right on the reference's values: the last block before it with a fault.

        What crosses the cut differs by less than its floor, and by enough to be seen further on.
        """
        refused = len(self._runs.refused)
        if not self._planted(good) or len(self._runs.refused) > refused:
            return good, spotted
        last = last_fault(self._planted, 0, good)
        found = self._inside(last, last + 1)
        if found.finding is None:
            return good, spotted
        self._notes.append(
            f"What {self._name(good)} receives differs by less than its floor, and by more further on."
        )
        return last, found

    def _sharpened(self, good: int, spotted: Spotted) -> Spotted:
        """An earlier fault of the block, where the free floors there leave room for one."""
        if not is_barely(spotted) or not spotted.rows:
            return spotted
        self._progress(f"run {self._runs.runs + 1}")
        folder, listing = spotted.trace.parent, self._listing
        cut = self._cuts[good]
        given = {pair.reference.key for pair in (*cut.pairs, *cut.sides)}
        found = on_right_inputs(self._runs, self._reference, listing, spotted, given, folder)
        if found is not spotted:
            self._told(f"each module of {self._name(good)} on the reference's values", found.rows)
        return found

    def _sources(self) -> Spotted | None:
        """The first fault among what was computed before the first layer, where wrong side values come from."""
        first = self._values.first_layer
        pairs = region(self._pairs, self._cuts[0], self._cuts[first])
        side_pairs = self._values.first_sides
        with self._run([*pairs, *side_pairs]) as trace:
            known = {id(pair) for pair in pairs}
            every = [*pairs, *(pair for pair in side_pairs if id(pair) not in known)]
            every.sort(key=lambda pair: pair.reference.order)
            above = self._judge.rows(every, trace)
        self._told("free run, what is made before the layers", above)
        found = first_fault(above)
        return None if found is None else Spotted(found, above, trace.path)

    def _block(self, number: int, pairs: Sequence[Pair], also: str) -> Spotted:
        """One block that is given the reference's values."""
        planted = self._values.at(number, sides=self._with_sides)
        with self._run(pairs, planted) as trace:
            rows = self._judge.rows(pairs, trace)
        name = self._name(number)
        inside = "the reference's values" + also if planted else "its own values"
        self._told(f"{name} on {inside}, everything in it", rows)
        return Spotted(first_fault(rows), rows, trace.path)

    def _below(self, spotted: Spotted) -> dict[str, Any]:
        """What is wrong inside the module: its weights, or a function, which takes one more run."""
        finding = spotted.finding
        weights = wrong_weights(self._weighing, finding, spotted.rows)
        if weights or finding is None or finding.where == "input" or not self._functions:
            return {"weights": weights}
        sides = paths_of(finding.region, self._pairs, self._reference, self._listing)
        if not all(sides):
            return {}
        found = look_inside(
            self._runs, self._reference, spotted, sides, spotted.trace.parent, self._progress
        )
        return {"called": found} if isinstance(found, str) else {"inside": found}

    def _last(self, good: int, bad: int) -> int | None:
        """The cut before the last fault; None where the reference's values could not be put in."""
        if bad == self._end:
            return good
        before = len(self._runs.refused)
        agrees = self._planted(bad)
        if len(self._runs.refused) > before:
            key, reason = list(self._runs.refused.items())[-1]
            self._notes.append(f"Nothing could be planted at {key.path or 'the model'}: {reason}.")
            return None
        return good if agrees else last_fault(self._planted, bad, self._end)

    def _planted(self, number: int) -> bool:
        """Whether the result agrees when the port goes on from a cut with the reference's values."""
        planted = self._values.at(number, sides=self._with_sides)
        with self._run(self._cuts[-1].pairs, planted) as trace:
            rows = self._judge.rows(self._cuts[-1].pairs, trace)
        name = self._name(number)
        right = agree(rows)
        meaning = f"all faults lie before {name}" if right else f"a fault lies at or after {name}"
        return self._told(f"reference planted at {name}, the result", rows, meaning)

    def _run(self, wanted: Iterable[Pair], planted: Any = None) -> Trace:
        self._progress(f"run {self._runs.runs + 1}")
        return self._runs.run([pair.port.key for pair in wanted], planted)

    def _told(self, question: str, rows: Sequence[Row], meaning: str = "") -> bool:
        right = agree(rows)
        step = Step(self._runs.runs, question, right, worst(rows), len(rows), meaning)
        self._steps.append(step)
        self._on_step(step)
        return right

    def _side_keys(self, number: int) -> set[Any]:
        return {pair.reference.key for pair in self._cuts[number].sides}

    def _name(self, number: int) -> str:
        return self._judge.name(self._cuts[number].block)

    def _result(self, **found: Any) -> Bisection:
        bare = Bisection(
            reference=str(self._reference.path),
            port=self._runs.subject.name or "the port",
            depth=len(self._cuts),
            steps=tuple(self._steps),
            runs=self._runs.runs,
            compared=self._judge.compared,
            finding=None,
            rows=(),
            notes=tuple(self._notes),
        )
        return replace(bare, **found)
