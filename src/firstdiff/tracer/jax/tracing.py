"""Tracing a user's call: with taps, as a program to reap; without, to compare with."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from firstdiff.tracer.jax import compat
from firstdiff.tracer.jax.carried import Carried, Stepped
from firstdiff.tracer.jax.forwarding import without_unchanged
from firstdiff.tracer.jax.frontend import (
    FALLBACK,
    FrontEnd,
    Split,
    front_ends_for,
    is_array,
    split_pytree,
)
from firstdiff.tracer.jax.inside import INSIDE, Inside
from firstdiff.tracer.jax.plan import taps
from firstdiff.tracer.jax.reap import Mode, Program, executable, options_of, read_program
from firstdiff.tracer.jax.schedule import WHOLE_CALL
from firstdiff.tracer.jax.state import Returned, returned
from firstdiff.tracer.jax.tap import Capturing, TapKey, new_serial, tap_tree
from firstdiff.tracer.jax.wanted import Wanted
from firstdiff.traces.errors import FirstdiffError, SubjectError

if TYPE_CHECKING:
    from firstdiff.traces.schema import Level

Inputs = Mapping[str, Any]

_LOST = (
    "the model's {} was changed inside a transformation (scan, vmap, remat or an inner jit) that does not return "
    "it: the change was lost there, and the next step begins without it"
)


@dataclass(frozen=True)
class Given:
    """Arguments of one step."""

    model: Split
    inputs: Split
    structure: int = 0
    """Tells the structures apart that the model had in steps before."""

    @property
    def arrays(self) -> list[Any]:
        """All arguments of the program: parameters first."""
        return [*self.model.arrays, *self.inputs.arrays]

    @property
    def signature(self) -> Any:
        """The same for steps that one compiled program serves."""
        shapes = ((np.shape(array), str(array.dtype)) for array in self.arrays)
        return tuple(shapes), self.inputs.static, self.structure


class Tracing:
    """A model with its call, and the front ends that tap it."""

    def __init__(
        self,
        model: Any,
        call: Callable[..., Any] | None,
        framework: str | None,
        max_iterations: int | None,
        level: Level = "module",
    ) -> None:
        self.model, self.call, self.framework = model, call, framework
        self.max_iterations = max_iterations
        self.level = level
        self.functions: dict[str, str] = {}
        """Where the functions that were traced are defined, `file:line` by `Key.method`."""
        self.fronts = front_ends_for(model, framework)
        self.notes: dict[str, None] = {}
        """What cannot be carried from one step to the next."""
        self._plain: dict[Any, Callable[..., Any]] = {}
        self._arrays: list[Any] | None = None
        self._structure = 0

    def given(self, inputs: Inputs) -> Given:
        """The model as it is now, with what earlier steps changed in it, and ``inputs``."""
        model = self._split(self.model)
        if self._arrays is not None:
            model = replace(model, arrays=self._arrays)
        return Given(model, split_pytree(dict(inputs)), self._structure)

    def keep(self, given: Given, done: Returned) -> None:
        """Let the next step begin with what the call of ``given`` changed in the model. The user's own model
        is not touched."""
        if done.other:
            self._arrays = [done.state[place] for place in range(len(done.state))]
            self.model = self._changed(given).rebuild(self._arrays)
            self._structure += 1
        elif done.state:
            self._arrays = list(given.model.arrays)
            for place, array in done.state.items():
                self._arrays[place] = array

    def traced(self, given: Given) -> Program:
        """The call with taps of modules and of the user, or of plain functions where there are
        none."""
        if self.framework != FALLBACK:
            program = self._traced([f for f in self.fronts if f.name != FALLBACK], given)
            ours = (WHOLE_CALL, INSIDE)
            if any(tap.key.front_end not in ours for tap in taps(program.plan.nodes)):
                return program
        return self._traced(self.fronts, given)

    def plain(
        self, given: Given, *, mode: Mode, exact: bool, kept: Sequence[int] = ()
    ) -> Sequence[Any]:
        """Outputs without taps, run in the same mode: the result's arrays, then those of the model in the places
        ``kept``, as the call leaves them."""
        key = given.signature, mode, exact, tuple(kept)
        if key not in self._plain:
            self._plain[key] = self._untapped(given, mode, exact, kept)
        outputs: Sequence[Any] = self._plain[key](given.model.arrays, given.inputs.arrays)
        return outputs

    def _untapped(
        self, given: Given, mode: Mode, exact: bool, kept: Sequence[int]
    ) -> Callable[..., Any]:
        whole = self._function(given.model, given.inputs, tapped=False)

        def function(parameters: list[Any], arrays: list[Any]) -> tuple[Any, list[Any]]:
            done = whole(parameters, arrays)
            return done.result, [
                done.state[place] if place in done.state else parameters[place] for place in kept
            ]

        if mode == "eager":
            program = read_program(function, given.model.arrays, given.inputs.arrays)
            run = executable(program, Wanted(()), mode="eager")
            return lambda parameters, arrays: run([*parameters, *arrays], {})[0]

        def arrays_only(parameters: list[Any], arrays: list[Any]) -> list[Any]:
            leaves = jax.tree_util.tree_leaves(function(parameters, arrays))
            return [leaf for leaf in leaves if is_array(leaf)]

        return jax.jit(arrays_only, compiler_options=options_of(exact))

    def _split(self, model: Any) -> Split:
        return self.fronts[0].split(model) if self.fronts else split_pytree(model)

    def _traced(self, fronts: Sequence[FrontEnd], given: Given) -> Program:
        if self.level != "module":
            return self._traced_once(fronts, given, Capturing(inside=Inside(self.level)))
        first = Capturing()
        program = self._traced_once(fronts, given, first)
        if not first.relative:
            return program
        return self._traced_once(fronts, given, Capturing(scoped=True))

    def _traced_once(self, fronts: Sequence[FrontEnd], given: Given, marker: Capturing) -> Program:
        with contextlib.ExitStack() as stack:
            stack.enter_context(compat.capturing((marker, "")))
            tapped = self.model
            for front in fronts:
                tapped = stack.enter_context(front.installed(tapped))
            split = self._split(tapped)
            function = self._function(split, given.inputs, tapped=True)
            inside = marker.inside
            if inside is not None:
                stack.enter_context(inside.watcher)
                self.functions = inside.watcher.definitions.places
            stack.enter_context(users_code("calling the model failed"))
            program = read_program(
                function,
                given.model.arrays,
                given.inputs.arrays,
                max_iterations=self.max_iterations,
                equations=inside.module_of if inside and inside.level == "op" else None,
            )
            return without_unchanged(program)

    def _function(self, split: Split, fed: Split, *, tapped: bool) -> Callable[..., Returned]:
        """The call as a function of arrays, which gives its result and what it changed in the model."""

        def function(parameters: list[Any], arrays: list[Any]) -> Returned:
            with split.run(parameters) as model:
                before, inputs = self._split(model), fed.rebuild(arrays)
                call = self._tapped if tapped else self._called
                result = call(model, inputs)
                done, lost = returned(result, before, self._split(model))
            for name in lost:
                self.notes[_LOST.format(name)] = None
            return done

        return function

    def _tapped(self, model: Any, inputs: Inputs) -> Any:
        key = TapKey("", "input", front_end=WHOLE_CALL, serial=new_serial())
        inputs = {
            name: tap_tree(value, replace(key, leaf=name), opaque=_is_carried)
            for name, value in inputs.items()
        }
        result, key = self._called(model, inputs), replace(key, site="output")
        if isinstance(result, Stepped):  # what goes to the next step is not recorded
            return result._replace(output=tap_tree(result.output, key))
        return tap_tree(result, key)

    def _changed(self, given: Given) -> Split:
        """The model, abstract, as the call of ``given`` leaves it."""
        found: list[Split] = []

        def function(parameters: list[Any], arrays: list[Any]) -> None:
            with given.model.run(parameters) as model:
                self._called(model, given.inputs.rebuild(arrays))
                found.append(self._split(model))

        jax.make_jaxpr(function)(given.model.arrays, given.inputs.arrays)
        return found[-1]

    def _called(self, model: Any, inputs: Inputs) -> Any:
        return model(**inputs) if self.call is None else self.call(model, **inputs)


def _is_carried(value: object) -> bool:
    return isinstance(value, Carried)


@contextlib.contextmanager
def users_code(what: str) -> Iterator[None]:
    """Turns what the user's code raises into a `SubjectError` that begins with ``what``."""
    try:
        yield
    except FirstdiffError:
        raise
    except Exception as error:  # the user's code
        first = (str(error).splitlines() or [""])[0]
        raise SubjectError(f"{what}: {type(error).__name__}: {first}") from error
