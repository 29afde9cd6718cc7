"""One run of a torch model with some values forced in and some recorded. Apart from `forcing`, which has the hooks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch

from firstdiff.tracer.forcing import Forcer
from firstdiff.tracer.state import untouched
from firstdiff.tracer.torch import pristine, run
from firstdiff.tracer.torch_inside import inside

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

    from firstdiff.tracer.events import Sink
    from firstdiff.tracer.selection import Selection
    from firstdiff.traces.schema import Key


def run_forced(
    model: nn.Module,
    call: Callable[..., Any] | None,
    inputs: Mapping[str, Any],
    *,
    sink: Sink,
    selection: Selection,
    values: Mapping[Key, tuple[np.ndarray, str]],
) -> frozenset[Key]:
    """Run ``call(model, **inputs)`` with ``values`` (storage array and logical dtype) in place of the model's own.

    ``selection`` covers the modules that are recorded and those that are forced. Returns the keys that were
    forced; those of another shape or kind were left. The model is as it was afterwards.
    """
    return run_forced_inside(model, call, inputs, sink=sink, selection=selection, values=values)[0]


def run_forced_inside(
    model: nn.Module,
    call: Callable[..., Any] | None,
    inputs: Mapping[str, Any],
    *,
    sink: Sink,
    selection: Selection,
    values: Mapping[Key, tuple[np.ndarray, str]],
) -> tuple[frozenset[Key], dict[str, str]]:
    """The same, with where each function is defined that was recorded below the level of modules."""
    with untouched(model), torch.no_grad():
        with (
            Forcer(model, sink, selection, values.get) as forcer,
            inside(model, forcer, selection) as functions,
        ):
            run(model, call, pristine(inputs))
        if forcer.failure is not None:
            raise forcer.failure
    return frozenset(forcer.forced), dict(functions)
