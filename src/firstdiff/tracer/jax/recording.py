"""Recording forward passes of a JAX model: the front ends' taps, traced, run, and sent to a
sink."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from firstdiff.tracer.jax.captured import JaxCapture
from firstdiff.tracer.jax.emission import Emission
from firstdiff.tracer.jax.environment import device_name, parameter_facts, precision, versions
from firstdiff.tracer.jax.modules import Census
from firstdiff.tracer.jax.outputs import difference, leaves_of
from firstdiff.tracer.jax.plant import plan_planting
from firstdiff.tracer.jax.run import Run, facts_of, refuse_other_branches
from firstdiff.tracer.jax.schedule import schedule
from firstdiff.tracer.jax.state import Unkept
from firstdiff.tracer.jax.strangers import notes_on_leaks, notes_on_strangers
from firstdiff.tracer.jax.streaming import refuse_several_devices
from firstdiff.tracer.jax.tracing import Given, Inputs, Tracing
from firstdiff.tracer.jax.wanted import slices
from firstdiff.tracer.selection import Selection
from firstdiff.traces.errors import CaptureError, OptionError

if TYPE_CHECKING:
    import numpy as np

    from firstdiff.tracer.events import Sink
    from firstdiff.tracer.jax.reap import Mode, Program
    from firstdiff.tracer.jax.schedule import Facts, Occurrence
    from firstdiff.tracer.jax.walk import Put
    from firstdiff.traces.schema import Key

__all__ = ["Inputs", "Recording"]


@dataclass
class Recording:
    """A capture of one model over one or more forward passes. Use `step` for each, then
    `finish`."""

    model: Any
    """What holds the arrays: a module, or a parameter tree."""
    call: Callable[..., Any] | None
    """Called as ``call(model, **inputs)``; None calls ``model(**inputs)``."""
    sink: Sink
    """Is given every event."""
    selection: Selection = field(default_factory=Selection)
    """Which activations are recorded."""
    mode: Mode = "jit"
    """`jit` compiles the whole call as one program, `eager` runs operation by operation."""
    exact: bool = False
    """Whether XLA may not keep bfloat16 in float32 between operations."""
    framework: str | None = None
    """Name of the front end; None finds it."""
    module: Any = None
    """A linen module whose children are listed too."""
    verify: bool = True
    """Whether it is run once more without taps, and the outputs compared."""
    max_iterations: int | None = None
    """Record that many first iterations of while loops instead of the last one."""
    values: Mapping[Key, Any] = field(default_factory=dict)
    """Planted: the model goes on with them in place of its own activations of those keys, each in
    the shape in which that activation is recorded; the events hold what the model computed."""
    stream: bool = False
    """Send every value while the model runs, as arguments of ordered callbacks (one device)."""
    passes: int = 1
    """Run that often and take a slice of the activations each time; a note says when a value or the
    output was another one in a later pass."""

    def __post_init__(self) -> None:
        self._refuse_impossible()
        self._tracing = Tracing(
            self.model, self.call, self.framework, self.max_iterations, self.selection.level
        )
        self._census = Census(self._tracing.fronts, self.model, self.module)
        self._programs: dict[Any, tuple[Program, list[Run]]] = {}
        self._steps = self._events = 0
        self._outputs: dict[str, np.ndarray] = {}
        self._differences: list[tuple[bool, float]] = []
        self._notes: list[str] = []
        self._unkept = Unkept()
        self._planted: list[Key] = []
        self._refused: dict[Key, str] = {}

    def step(self, inputs: Inputs) -> Any:
        """One forward pass ``call(model, **inputs)``; its events go to the sink. Returns what the
        call returns.

        Arrays among ``inputs`` (numpy or JAX, also nested) are arguments of the jitted call,
        everything else is a constant of it. `SubjectError` when the user's code raises.
        """
        given = self._tracing.given(inputs)
        put: Put = {}
        if self.values:
            program, runs, put = self._planting(given)
        else:
            program, runs = self._program(given)
        outputs = self._recorded(program, runs, given.arrays, put)
        done = program.rebuild(outputs)
        self._outputs = leaves_of(done.result)
        if self.verify and not put:
            kept = sorted(done.state)
            plain = self._tracing.plain(given, mode=self.mode, exact=self.exact, kept=kept)
            self._differences.append(difference(outputs, plain))
        self._tracing.keep(given, done)
        unkept = self._unkept.after(self._tracing.model, given.model, inputs, done)
        self._notes.extend((*unkept, *program.plan.notes, *self._tracing.notes))
        self._steps += 1
        return done.result

    def listed(self, inputs: Inputs) -> list[Occurrence]:
        """The activations of one forward pass, in execution order, without their values.

        The program is traced, not run, but for what decides its branches and trips. `SubjectError`
        when the user's code raises.
        """
        given = self._tracing.given(inputs)
        program = self._tracing.traced(given)
        return schedule(program.plan, self._facts(program, given.arrays))

    def finish(self) -> JaxCapture:
        """What was found. `CaptureError` when nothing was recorded: silence is never success."""
        if not self._events:
            raise CaptureError(self._census.silence(self.selection))
        self._notes.extend(notes_on_strangers(self.call, self.model, self._census.fronts()))
        self._notes.extend(notes_on_leaks(self.call))
        arrays = self._tracing.given({}).model.arrays
        count, dtype = parameter_facts(arrays)
        return JaxCapture(
            outputs=self._outputs,
            modules=self._census.modules(),
            never_fired=self._census.never_fired(),
            aliases=self._census.aliases(),
            front_end=self._census.front_end(),
            mode=self.mode,
            output_check=self._check(),
            notes=tuple(dict.fromkeys(self._notes)),
            device=device_name(arrays),
            versions=versions(),
            precision=precision(exact=self.exact, mode=self.mode),
            parameters=count,
            dtype=dtype,
            events=self._events,
            steps=self._steps,
            planted=tuple(self._planted),
            refused=dict(self._refused),
            functions=dict(self._tracing.functions),
        )

    def _refuse_impossible(self) -> None:
        if self.mode not in ("jit", "eager"):
            raise OptionError(f"mode {self.mode!r} is unknown; it is 'jit' or 'eager'")
        for name, number in (("passes", self.passes), ("max_iterations", self.max_iterations)):
            if number is not None and number < 1:
                raise OptionError(f"{name} is {number}; it is at least 1")
        if self.stream and self.passes > 1:
            raise OptionError("stream and passes exclude each other; one of them bounds the memory")
        if self.stream and self.values:
            raise OptionError("stream: values cannot be put in while streaming; leave it out")

    def _program(self, given: Given) -> tuple[Program, list[Run]]:
        if given.signature not in self._programs:
            program = self._tracing.traced(given)
            self._programs[given.signature] = program, self._runs(program)
        return self._programs[given.signature]

    def _runs(self, program: Program, cuts: Mapping[Any, Any] | None = None) -> list[Run]:
        """The compiled runs that take what is selected: one, or one for every pass."""
        selected = self._selected(schedule(program.plan))
        parts = slices(program.plan, selected, self.passes)
        return [
            Run(program, part, self.mode, exact=self.exact, cuts=cuts, stream=self.stream)
            for part in parts
        ]

    def _selected(self, occurrences: Sequence[Occurrence]) -> list[Occurrence]:
        return [o for o in occurrences if self._wants(o)]

    def _wants(self, occurrence: Occurrence) -> bool:
        key = occurrence.key
        inside = key.level == "module" or self.selection.looks_into(key.path)
        return inside and self.selection.wants(key.path, key.site)

    def _recorded(
        self, program: Program, runs: Sequence[Run], arguments: Sequence[Any], put: Put
    ) -> Sequence[Any]:
        """Outputs of the first run; the events of all runs are sent."""
        emission = Emission(self.sink, several=len(runs) > 1)
        if self.stream:
            refuse_several_devices(program.plan, arguments)
            facts = self._facts(program, arguments)
            fired = self._fired(program, facts)
            outputs: Sequence[Any] = runs[0].streamed(arguments, fired, emission)
        else:
            outputs = self._in_passes(program, runs, arguments, put, emission)
        self._events += emission.count
        return outputs

    def _in_passes(
        self,
        program: Program,
        runs: Sequence[Run],
        arguments: Sequence[Any],
        put: Put,
        emission: Emission,
    ) -> Sequence[Any]:
        first: Sequence[Any] | None = None
        selected: list[Occurrence] = []
        changed = False
        for run in runs:
            outputs, facts, taken = run(arguments, put)
            if first is None:
                first, selected = outputs, self._fired(program, facts)
                decided = facts
            else:
                changed |= not difference(first, outputs)[0]
                refuse_other_branches(decided, facts)
            emission.give_all(list(filter(run.wanted.holds, selected)), run.wanted, taken)
        self._note_changes(len(runs), changed, emission.changed)
        return first or ()

    def _note_changes(self, passes: int, outputs: bool, changed: Sequence[Key]) -> None:
        if passes < 2:
            return
        what = [f"{len(changed)} activations"] if changed else []
        what += ["the output"] if outputs else []
        if what:
            where = f", first {changed[0].path} {changed[0].site}" if changed else ""
            self._notes.append(f"{' and '.join(what)} changed between {passes} passes{where}")

    def _fired(self, program: Program, facts: Facts) -> list[Occurrence]:
        """What is selected of a run with these facts; all that ran is noted."""
        occurrences = schedule(program.plan, facts, step=self._steps)
        self._census.fired(occurrences)
        if program.plan.facts:
            self._census.possible(schedule(program.plan))
        return self._selected(occurrences)

    def _planting(self, given: Given) -> tuple[Program, list[Run], Put]:
        """The program with values put in. Which branches and trips there are is found by a run
        without them."""
        program, _ = self._program(given)
        facts = self._facts(program, given.arrays)
        occurrences = schedule(program.plan, facts, step=self._steps)
        values = {key: value for key, value in self.values.items() if key.step == self._steps}
        planting = plan_planting(occurrences, values, self.max_iterations)
        self._planted.extend(planting.planted)
        self._refused.update(planting.refused)
        program = program.planted(frozenset(planting.put))
        return program, self._runs(program, planting.cuts), planting.put

    def _facts(self, program: Program, arguments: Sequence[Any]) -> Facts:
        return facts_of(program, arguments, self.mode, exact=self.exact)

    def _check(self) -> dict[str, Any]:
        if not self._differences:
            return {"checked": False}
        bitwise = all(same for same, _ in self._differences)
        largest = max(distance for _, distance in self._differences)
        return {"checked": True, "bitwise": bitwise, "max_abs": largest}
