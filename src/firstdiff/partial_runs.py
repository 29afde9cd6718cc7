"""Runs of a subject that record only what is asked for, with given values put in: what a search over depth is made of.

Apart from the search, because PyTorch and JAX differ here and nowhere else in it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from firstdiff.recorders import event_writer, record_torch, recorder_for
from firstdiff.tracer.selection import Selection
from firstdiff.traces import Header, TraceWriter, open_trace
from firstdiff.traces.dtypes import widen
from firstdiff.traces.schema import Activation

if TYPE_CHECKING:
    from firstdiff.inputs import Inputs
    from firstdiff.models.subject import Subject
    from firstdiff.tracer.events import Event, Sink
    from firstdiff.traces import Trace
    from firstdiff.traces.schema import Key

Values = Mapping["Key", tuple[np.ndarray, str]]
"""Storage array and logical dtype by the port's key."""


@dataclass
class PartialRuns:
    """A subject on fixed inputs, run again and again. Traces lie in ``folder`` and belong to the caller."""

    subject: Subject
    inputs: Inputs
    folder: Path
    mode: Literal["jit", "eager"] = "jit"
    exact: bool = False
    runs: int = 0
    """How many times the subject ran."""
    refused: dict[Key, str] = field(default_factory=dict)
    """What could not be put in, with the reason."""

    def listing(self) -> tuple[Activation, ...]:
        """Every activation of the subject, without values. JAX is traced for it, PyTorch run once."""
        return self._torch_listing() if self._is_torch else self._jax_listing()

    def run(self, wanted: Collection[Key], planted: Values | None = None) -> Trace:
        """One run that records ``wanted`` alone, going on with ``planted`` in place of its own values there."""
        planted = planted or {}
        path = self.folder / f"run{self.runs}.h5"
        self.runs += 1
        with TraceWriter(path, Header(framework="torch" if self._is_torch else "jax")) as writer:
            sink = _only(event_writer(writer), frozenset(wanted))
            taps = {*wanted, *planted}
            sites = tuple(sorted({key.site for key in taps}))
            selection = Selection(self.globs(taps), sites)
            (self._torch if self._is_torch else self._jax)(sink, selection, planted)
            writer.finish()
        return open_trace(path)

    @staticmethod
    def globs(keys: Iterable[Key], *more: str) -> tuple[str, ...]:
        """Globs that select the modules of ``keys``, and those at the paths ``more``, alone."""
        return tuple(sorted({escape(path) for path in (*(key.path for key in keys), *more)}))

    @property
    def _is_torch(self) -> bool:
        return recorder_for(self.subject) is record_torch

    def _torch(self, sink: Sink, selection: Selection, planted: Values) -> None:
        from firstdiff.tracer.forced_run import run_forced

        forced = run_forced(
            self.subject.model,
            self.subject.call,
            self._torch_inputs(),
            sink=sink,
            selection=selection,
            values=planted,
        )
        missed = [key for key in planted if key not in forced]
        self.refused |= dict.fromkeys(missed, "the model has another shape or kind there")

    def _jax(self, sink: Sink, selection: Selection, planted: Values) -> None:
        from firstdiff.tracer.jax.capture import capture_jax

        done = capture_jax(
            self.subject.model,
            self.subject.call,
            self._jax_inputs(),
            sink=sink,
            selection=selection,
            mode=self.mode,
            exact=self.exact,
            framework=self.subject.framework,
            module=self.subject.module,
            verify=False,
            values={key: widen(*value) for key, value in planted.items()},
        )
        self.refused |= done.refused

    def _torch_listing(self) -> tuple[Activation, ...]:
        from firstdiff.tracer.forced_run import run_forced

        found: list[Activation] = []

        def note(event: Event) -> None:
            key, shape = event.key, tuple(event.value.shape)
            found.append(Activation(len(found), key, event.dtype, shape, event.class_name))

        self.runs += 1
        run_forced(
            self.subject.model,
            self.subject.call,
            self._torch_inputs(),
            sink=note,
            selection=Selection(),
            values={},
        )
        return tuple(found)

    def _jax_listing(self) -> tuple[Activation, ...]:
        from firstdiff.tracer.jax.listing import list_activations

        return list_activations(
            self.subject.model,
            self.subject.call,
            self._jax_inputs(),
            mode=self.mode,
            exact=self.exact,
            framework=self.subject.framework,
            module=self.subject.module,
        )

    def _torch_inputs(self) -> dict[str, Any]:
        from firstdiff.tracer.tensors import torch_tensor

        return {name: torch_tensor(given.value, given.dtype) for name, given in self.inputs.items()}

    def _jax_inputs(self) -> dict[str, Any]:
        from firstdiff.tracer.jax.inputs import jax_input

        return {name: jax_input(given.value, given.dtype) for name, given in self.inputs.items()}


def _only(write: Sink, wanted: Collection[Key]) -> Sink:
    """``write`` for the ``wanted`` keys alone; bytes are shared among those only."""

    def sink(event: Event) -> None:
        if event.key in wanted:
            write(event if event.same_as in wanted else replace(event, same_as=None))

    return sink
