"""What a JAX model would record, without recording it. Apart from `capture`, which runs the model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from firstdiff.tracer.jax.recording import Recording
from firstdiff.traces.schema import Activation

if TYPE_CHECKING:
    from firstdiff.tracer.events import Event
    from firstdiff.tracer.jax.reap import Mode
    from firstdiff.tracer.jax.schedule import Occurrence


def list_activations(
    model: Any,
    call: Any,
    inputs: Mapping[str, Any],
    *,
    mode: Mode = "jit",
    exact: bool = False,
    framework: str | None = None,
    module: Any = None,
) -> tuple[Activation, ...]:
    """Every activation of ``call(model, **inputs)`` in execution order: key, dtype, shape, class; no place, no digest.

    The arguments are those of `capture_jax`. Raises `SubjectError` when the user's code raises.
    """
    recording = Recording(
        model, call, _nowhere, mode=mode, exact=exact, framework=framework, module=module
    )
    found = recording.listed(inputs)
    return tuple(_activation(order, occurrence) for order, occurrence in enumerate(found))


def _activation(order: int, occurrence: Occurrence) -> Activation:
    tap = occurrence.tap
    return Activation(
        order=order,
        key=occurrence.key,
        dtype=np.dtype(tap.dtype).name,
        shape=tuple(tap.shape),
        class_name=tap.key.class_name,
        axes=occurrence.axes,
        source=tap.source,
    )


def _nowhere(event: Event) -> None:
    """A sink for a recording that does not run."""
