"""Taking activations out of a traced function: every selected tap becomes one more output of the
same program."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import jax
import numpy as np

from firstdiff.tracer.jax import compat
from firstdiff.tracer.jax.frontend import is_array
from firstdiff.tracer.jax.rules import RULES
from firstdiff.tracer.jax.survey import survey
from firstdiff.tracer.jax.threaded import threaded
from firstdiff.tracer.jax.walk import Put, Send, Walk
from firstdiff.traces.errors import CaptureError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jax.extend.core import ClosedJaxpr

    from firstdiff.tracer.jax.plan import Address, Plan
    from firstdiff.tracer.jax.wanted import Wanted
    from firstdiff.traces.schema import Key

Mode = Literal["jit", "eager"]


@dataclass(frozen=True)
class Program:
    """A traced function with its taps, and how to give back what it returns."""

    jaxpr: ClosedJaxpr
    plan: Plan
    rebuild: Callable[[Sequence[Any]], Any]
    """Makes the function's own result from the program's outputs."""
    parameters: int
    """How many of the arguments are parameters; they come first."""
    max_iterations: int | None = None
    equations: Callable[[str], str] | None = None
    """Path of the module that name scopes stand for, where every equation is tapped."""

    def planted(self, addresses: frozenset[Address]) -> Program:
        """The same program, read knowing that the taps at ``addresses`` return other values than
        they receive."""
        jaxpr = threaded(self.jaxpr)
        plan = survey(
            jaxpr,
            parameters=self.parameters,
            max_iterations=self.max_iterations,
            planted=addresses,
            equations=self.equations,
        )
        return replace(self, jaxpr=jaxpr, plan=plan)


def read_program(
    function: Callable[[list[Any], list[Any]], Any],
    parameters: Sequence[Any],
    inputs: Sequence[Any],
    *,
    max_iterations: int | None = None,
    equations: Callable[[str], str] | None = None,
) -> Program:
    """Trace ``function(parameters, inputs)``, two lists of arrays, once. Nothing is computed.

    Taps are found only while a capture is on (`compat.capturing`). ``max_iterations`` keeps that
    many first iterations of while loops; without it the last one is kept. ``equations`` taps every
    equation (`survey`).
    """
    rebuild: list[Callable[[Sequence[Any]], Any]] = []

    def flat(parameters: list[Any], inputs: list[Any]) -> list[Any]:
        leaves, structure = jax.tree_util.tree_flatten(function(parameters, inputs))
        arrays = [leaf for leaf in leaves if is_array(leaf)]
        static = [None if is_array(leaf) else leaf for leaf in leaves]
        where = [index for index, leaf in enumerate(leaves) if is_array(leaf)]

        def whole(values: Sequence[Any]) -> Any:
            filled = list(static)
            for index, value in zip(where, values, strict=True):
                filled[index] = value
            return jax.tree_util.tree_unflatten(structure, filled)

        rebuild.append(whole)
        return arrays

    jaxpr = jax.make_jaxpr(flat)(list(parameters), list(inputs))
    plan = survey(
        jaxpr, parameters=len(parameters), max_iterations=max_iterations, equations=equations
    )
    return Program(jaxpr, plan, rebuild[-1], len(parameters), max_iterations, equations)


def executable(
    program: Program,
    wanted: Wanted,
    *,
    mode: Mode = "jit",
    exact: bool = False,
    cuts: Mapping[Address, Any] | None = None,
    send: Send | None = None,
) -> Callable[[Sequence[Any], Put], tuple[list[Any], dict[int, Any]]]:
    """The program as a function of (arguments, put values) that returns (outputs, taken values by
    number of the slot).

    ``exact`` keeps XLA from computing bfloat16 in float32 between operations
    (`xla_allow_excess_precision`). `eager` runs operation by operation, loops in Python. With
    ``send`` nothing is taken: it is given every value as soon as that is computed.
    """
    walk = Walk(
        wanted.slots,
        RULES,
        program.max_iterations,
        cuts or {},
        inline=mode == "eager",
        kept=wanted.kept,
        whole=wanted.facts,
        send=send,
    )

    def run(arguments: Sequence[Any], put: Put) -> tuple[list[Any], dict[int, Any]]:
        return walk.run(program.jaxpr.jaxpr, program.jaxpr.consts, arguments, (), put)

    if mode == "eager":

        def eagerly(arguments: Sequence[Any], put: Put) -> tuple[list[Any], dict[int, Any]]:
            with jax.disable_jit():
                return run([jax.numpy.asarray(value) for value in arguments], put)

        return eagerly
    return jax.jit(
        run,
        compiler_options=options_of(exact),
        out_shardings=(compat.UNSPECIFIED, compat.ANY_LAYOUT),
    )


def options_of(exact: bool) -> dict[str, Any] | None:
    """Compiler options of a capture, and of the plain run that it is compared with."""
    return {"xla_allow_excess_precision": False} if exact else None


def on_host(value: Any, key: Key | None = None) -> np.ndarray:
    """``value`` as a numpy array: the whole tensor, gathered from its shards."""
    if isinstance(value, jax.Array) and not value.is_fully_addressable:
        name = f"{key.path} {key.site}" if key else "the output"
        raise CaptureError(
            f"{name} lies on devices of several processes; capture in one process that sees all of them"
        )
    return np.asarray(value)
