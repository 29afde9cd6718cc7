"""One compiled run of a traced program, which takes one slice of what is wanted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from firstdiff.tracer.jax import compat
from firstdiff.tracer.jax.reap import Mode, Program, executable, on_host
from firstdiff.tracer.jax.streaming import Stream
from firstdiff.tracer.jax.tracing import users_code
from firstdiff.tracer.jax.wanted import Wanted
from firstdiff.traces.errors import CaptureError

if TYPE_CHECKING:
    from firstdiff.tracer.jax.emission import Emission
    from firstdiff.tracer.jax.plan import Address
    from firstdiff.tracer.jax.schedule import Facts, Occurrence
    from firstdiff.tracer.jax.walk import Put

_FAILED = "running the model failed"


class Run:
    """A program compiled to take ``wanted``; with ``stream``, to send it."""

    def __init__(
        self,
        program: Program,
        wanted: Wanted,
        mode: Mode,
        *,
        exact: bool = False,
        cuts: Mapping[Address, Any] | None = None,
        stream: bool = False,
    ) -> None:
        self.wanted = wanted.streamed() if stream else wanted
        self._stream = Stream()
        self._execute = executable(
            program,
            self.wanted,
            mode=mode,
            exact=exact,
            cuts=cuts,
            send=self._stream.send if stream else None,
        )

    def __call__(
        self, arguments: Sequence[Any], put: Put
    ) -> tuple[list[Any], Facts, dict[int, Any]]:
        """Outputs, which branches and trips there were, and the taken values by their slots'
        numbers."""
        with users_code(_FAILED):
            outputs, taken = self._execute(arguments, put)
            compat.wait_for(outputs)
        return outputs, _facts(self.wanted, taken), taken

    def streamed(
        self, arguments: Sequence[Any], selected: Sequence[Occurrence], emission: Emission
    ) -> list[Any]:
        """Outputs; the events of ``selected`` are sent while the program runs."""

        def program() -> list[Any]:
            with users_code(_FAILED):
                outputs = self._execute(arguments, {})[0]
                compat.wait_for(outputs)
                compat.wait_for_callbacks()
            return outputs

        return self._stream.run(program, selected, self.wanted.slots, emission.give)


def facts_of(
    program: Program, arguments: Sequence[Any], mode: Mode, *, exact: bool = False
) -> Facts:
    """Branch indices and trip counts of a run without anything else taken or put."""
    if not program.plan.facts:
        return {}
    alone = Wanted(tuple(program.plan.facts), program.plan.facts)
    return Run(program, alone, mode, exact=exact)(arguments, {})[1]


def refuse_other_branches(first: Facts, later: Facts) -> None:
    """`CaptureError` when a later pass ran other branches or trips: its values have other names."""
    if any(not np.array_equal(first[slot], later[slot]) for slot in first):
        raise CaptureError(
            "a later pass took other branches than the first one, so the passes do not make one run; "
            "capture in one pass"
        )


def _facts(wanted: Wanted, taken: dict[int, Any]) -> Facts:
    numbers = {slot: number for number, slot in enumerate(wanted.slots)}
    return {slot: on_host(taken[numbers[slot]]) for slot in wanted.facts}
