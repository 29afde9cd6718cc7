"""A torch model with its inputs, run again and again with the same values forced in, in several precisions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from firstdiff.tracer.forcing import Forcer, Values
from firstdiff.tracer.golden import inputs_as, run_in
from firstdiff.tracer.state import untouched
from firstdiff.tracer.switches import model_dtype
from firstdiff.tracer.torch import EVERYTHING, Call, pristine, run
from firstdiff.tracer.torch_inside import inside
from firstdiff.traces.errors import FirstdiffError

if TYPE_CHECKING:
    from torch import nn

    from firstdiff.tracer.events import Sink
    from firstdiff.tracer.increments import Increments
    from firstdiff.tracer.selection import Selection
    from firstdiff.traces.schema import Key


@dataclass(frozen=True)
class Reference:
    """A torch model with the inputs that all forced runs share."""

    model: nn.Module
    """The model; put back as it was after each run."""
    call: Call | None
    """``call(model, **inputs)``; None means ``model(**inputs)``."""
    inputs: Mapping[str, Any]
    """Tensors by keyword."""
    values: Values
    """What to force."""
    selection: Selection = EVERYTHING
    """Taps that take part."""

    @property
    def _functions(self) -> Selection:
        """Functions, where the selection looks inside modules: operations are other ones in another precision."""
        inner = self.selection.level != "module"
        return replace(self.selection, level="function") if inner else self.selection

    def run(
        self,
        dtype: str,
        begin: Callable[[], Sink],
        *,
        perturb: bool = False,
        increments: Increments | None = None,
    ) -> frozenset[Key] | str:
        """Run once in ``dtype``, every event to the sink that ``begin`` makes (again where a run fails for want
        of a whole copy of the weights); the forced keys, or in a sentence what went wrong.
        """
        own = model_dtype(self.model) == dtype

        def work() -> frozenset[Key]:
            given = pristine(self.inputs) if own else inputs_as(self.inputs, dtype)
            forcer = Forcer(self.model, begin(), self.selection, self.values, perturb=perturb)
            used = increments.used(forcer) if increments else nullcontext()
            with forcer, used, inside(self.model, forcer, self._functions):
                run(self.model, self.call, given)
            if forcer.failure is not None:
                raise forcer.failure
            return frozenset(forcer.forced)

        try:
            with untouched(self.model), torch.no_grad():
                return work() if own else run_in(self.model, dtype, work)
        except (FirstdiffError, OSError, MemoryError, RuntimeError, TypeError) as error:
            return str(error) or type(error).__name__
