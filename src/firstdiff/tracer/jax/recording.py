"""Recording forward passes of a JAX model: the front ends' taps, traced, run, and sent to a
sink."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from firstdiff.tracer.jax import compat
from firstdiff.tracer.jax.captured import JaxCapture
from firstdiff.tracer.jax.environment import device_name, parameter_facts, precision, versions
from firstdiff.tracer.jax.frontend import (
    FALLBACK,
    FrontEnd,
    Split,
    front_ends_for,
    is_array,
    split_pytree,
)
from firstdiff.tracer.jax.modules import Census
from firstdiff.tracer.jax.outputs import difference, leaves_of
from firstdiff.tracer.jax.plan import taps
from firstdiff.tracer.jax.plant import plan_planting
from firstdiff.tracer.jax.reap import (
    Mode,
    Program,
    events,
    executable,
    on_host,
    read_program,
    wanted_slots,
)
from firstdiff.tracer.jax.schedule import WHOLE_CALL, schedule
from firstdiff.tracer.jax.tap import Capturing, TapKey, new_serial, tap_tree
from firstdiff.tracer.selection import Selection
from firstdiff.traces.errors import CaptureError, FirstdiffError, OptionError, SubjectError

if TYPE_CHECKING:
    from firstdiff.tracer.events import Sink
    from firstdiff.tracer.jax.plan import Slot
    from firstdiff.tracer.jax.schedule import Occurrence
    from firstdiff.tracer.jax.walk import Put
    from firstdiff.traces.schema import Key

Inputs = Mapping[str, Any]


@dataclass
class Recording:
    """A capture of one model over one or more forward passes. Use `step` for each, then
    `finish`."""

    model: Any
    call: Callable[..., Any] | None
    sink: Sink
    selection: Selection = field(default_factory=Selection)
    mode: Mode = "jit"
    exact: bool = False
    framework: str | None = None
    module: Any = None
    verify: bool = True
    max_iterations: int | None = None
    values: Mapping[Key, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.mode not in ("jit", "eager"):
            raise OptionError(f"mode {self.mode!r} is unknown; it is 'jit' or 'eager'")
        self._fronts = front_ends_for(self.model, self.framework)
        self._census = Census(self._fronts, self.model, self.module)
        self._programs: dict[Any, tuple[Program, Any, tuple[Slot, ...]]] = {}
        self._steps = self._events = 0
        self._outputs: dict[str, np.ndarray] = {}
        self._differences: list[tuple[bool, float]] = []
        self._notes: list[str] = []
        self._planted: list[Key] = []
        self._refused: dict[Key, str] = {}

    def step(self, inputs: Inputs) -> Any:
        """One forward pass ``call(model, **inputs)``; its events go to the sink. Returns what the
        call returns.

        Arrays among ``inputs`` (numpy or JAX, also nested) are arguments of the jitted call,
        everything else is a constant of it. `SubjectError` when the user's code raises.
        """
        split, fed = _split_of(self._fronts, self.model), split_pytree(dict(inputs))
        arguments = [*split.arrays, *fed.arrays]
        program, run, slots = self._program(fed)
        put: Put = {}
        if self.values:
            program, run, slots, put = self._planting(program, arguments)
        with _users_code("running the model failed"):
            outputs, taken = run(arguments, put)
            compat.wait_for(outputs)
        numbers = {slot: number for number, slot in enumerate(slots)}
        facts = {slot: on_host(taken[numbers[slot]]) for slot in program.plan.facts}
        occurrences = schedule(program.plan, facts, step=self._steps)
        self._census.fired(occurrences)
        wanted = self.selection.wants
        selected = [o for o in occurrences if wanted(o.key.path, o.key.site)]
        for event in events(selected, slots, taken):
            self.sink(event)
            self._events += 1
        result = program.rebuild(outputs)
        self._outputs = leaves_of(result)
        if self.verify and not put:
            self._differences.append(difference(outputs, self._plain(split, fed)))
        self._notes.extend(program.plan.notes)
        self._steps += 1
        return result

    def listed(self, inputs: Inputs) -> list[Occurrence]:
        """The activations of one forward pass, in execution order, without their values.

        The program is traced, not run, but for what decides its branches and trips. `SubjectError`
        when the user's code raises.
        """
        split, fed = _split_of(self._fronts, self.model), split_pytree(dict(inputs))
        program = self._trace(fed)
        return schedule(program.plan, self._facts(program, [*split.arrays, *fed.arrays]))

    def finish(self) -> JaxCapture:
        """What was found. `CaptureError` when nothing was recorded: silence is never success."""
        if not self._events:
            raise CaptureError(self._census.silence(self.selection))
        arrays = _split_of(self._fronts, self.model).arrays
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
        )

    def _program(self, fed: Split) -> tuple[Program, Any, tuple[Slot, ...]]:
        shapes = tuple((np.shape(array), str(array.dtype)) for array in fed.arrays)
        key = (shapes, fed.static)
        if key not in self._programs:
            program = self._trace(fed)
            slots = wanted_slots(program, self.selection)
            run = executable(program, slots, mode=self.mode, exact=self.exact)
            self._programs[key] = program, run, slots
        return self._programs[key]

    def _planting(
        self, program: Program, arguments: Sequence[Any]
    ) -> tuple[Program, Any, tuple[Slot, ...], Put]:
        """The program with values put in. Which branches and trips there are is found by a run
        without them."""
        occurrences = schedule(program.plan, self._facts(program, arguments), step=self._steps)
        values = {key: value for key, value in self.values.items() if key.step == self._steps}
        planting = plan_planting(occurrences, values, self.max_iterations)
        self._planted.extend(planting.planted)
        self._refused.update(planting.refused)
        program = program.planted(frozenset(planting.put))
        slots = wanted_slots(program, self.selection)
        run = executable(program, slots, mode=self.mode, exact=self.exact, cuts=planting.cuts)
        return program, run, slots, planting.put

    def _facts(self, program: Program, arguments: Sequence[Any]) -> dict[Slot, np.ndarray]:
        """Branch indices and trip counts of a run without anything taken or put."""
        slots = tuple(program.plan.facts)
        if not slots:
            return {}
        with _users_code("running the model failed"):
            _, taken = executable(program, slots, mode=self.mode, exact=self.exact)(arguments, {})
        return {slot: on_host(taken[number]) for number, slot in enumerate(slots)}

    def _trace(self, fed: Split) -> Program:
        """The call with taps of modules and of the user, or of plain functions where there are
        none."""
        if self.framework != FALLBACK:
            program = self._traced([f for f in self._fronts if f.name != FALLBACK], fed)
            if any(tap.key.front_end != WHOLE_CALL for tap in taps(program.plan.nodes)):
                return program
        return self._traced(self._fronts, fed)

    def _traced(self, fronts: Sequence[FrontEnd], fed: Split) -> Program:
        first = Capturing()
        program = self._traced_once(fronts, fed, first)
        return self._traced_once(fronts, fed, Capturing(scoped=True)) if first.relative else program

    def _traced_once(self, fronts: Sequence[FrontEnd], fed: Split, marker: Capturing) -> Program:
        with contextlib.ExitStack() as stack:
            stack.enter_context(compat.capturing((marker, "")))
            tapped = self.model
            for front in fronts:
                tapped = stack.enter_context(front.installed(tapped))
            split = _split_of(self._fronts, tapped)
            function = self._function(split, fed, tapped=True)
            stack.enter_context(_users_code("calling the model failed"))
            return read_program(
                function, split.arrays, fed.arrays, max_iterations=self.max_iterations
            )

    def _function(self, split: Split, fed: Split, *, tapped: bool) -> Callable[..., Any]:
        def function(parameters: list[Any], arrays: list[Any]) -> Any:
            model, inputs = split.rebuild(parameters), fed.rebuild(arrays)
            if not tapped:
                return self._called(model, inputs)
            key = TapKey("", "input", front_end=WHOLE_CALL, serial=new_serial())
            inputs = {
                name: tap_tree(value, replace(key, leaf=name)) for name, value in inputs.items()
            }
            return tap_tree(self._called(model, inputs), replace(key, site="output"))

        return function

    def _called(self, model: Any, inputs: Inputs) -> Any:
        return model(**inputs) if self.call is None else self.call(model, **inputs)

    def _plain(self, split: Split, fed: Split) -> Sequence[Any]:
        """Outputs without taps, run in the same mode."""
        function = self._function(split, fed, tapped=False)
        if self.mode == "eager":
            program = read_program(function, split.arrays, fed.arrays)
            run = executable(program, (), mode="eager")
            return run([*split.arrays, *fed.arrays], {})[0]

        def arrays_only(parameters: list[Any], arrays: list[Any]) -> list[Any]:
            leaves = jax.tree_util.tree_leaves(function(parameters, arrays))
            return [leaf for leaf in leaves if is_array(leaf)]

        options = {"xla_allow_excess_precision": False} if self.exact else None
        plain: Sequence[Any] = jax.jit(arrays_only, compiler_options=options)(
            split.arrays, fed.arrays
        )
        return plain

    def _check(self) -> dict[str, Any]:
        if not self._differences:
            return {"checked": False}
        bitwise = all(same for same, _ in self._differences)
        largest = max(distance for _, distance in self._differences)
        return {"checked": True, "bitwise": bitwise, "max_abs": largest}


def _split_of(fronts: Sequence[FrontEnd], model: Any) -> Split:
    return fronts[0].split(model) if fronts else split_pytree(model)


@contextlib.contextmanager
def _users_code(what: str) -> Iterator[None]:
    try:
        yield
    except FirstdiffError:
        raise
    except Exception as error:  # the user's code
        first = (str(error).splitlines() or [""])[0]
        raise SubjectError(f"{what}: {type(error).__name__}: {first}") from error
