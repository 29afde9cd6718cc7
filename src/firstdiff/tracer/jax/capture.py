"""Capture of a JAX model in one call."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from firstdiff.tracer.jax.recording import Inputs, Recording
from firstdiff.tracer.selection import Selection

if TYPE_CHECKING:
    from firstdiff.tracer.events import Sink
    from firstdiff.tracer.jax.captured import JaxCapture
    from firstdiff.tracer.jax.reap import Mode
    from firstdiff.traces.schema import Key

Feed = Callable[[Any], Inputs | None]
"""Inputs of the next step, from what the step before returned; None when there is none."""


def capture_jax(
    model: Any,
    call: Callable[..., Any] | None,
    inputs: Inputs | Sequence[Inputs] | Feed,
    *,
    sink: Sink,
    selection: Selection | None = None,
    mode: Mode = "jit",
    exact: bool = False,
    framework: str | None = None,
    module: Any = None,
    verify: bool = True,
    max_iterations: int | None = None,
    values: Mapping[Key, Any] | None = None,
    stream: bool = False,
    passes: int = 1,
) -> JaxCapture:
    """Record ``call(model, **inputs)``, or ``model(**inputs)`` when ``call`` is None. Several
    inputs are several steps; a function gives those of each step, from what the step before returned
    (None before the first), until it gives None.

    The options are the fields of `Recording`; ``values`` are planted in place of the model's own
    activations, ``stream`` and ``passes`` bound the memory.

    Raises `SubjectError` when the user's code raises (chained), `CaptureError` when nothing was
    recorded, `OptionError` when an option is impossible here.
    """
    recording = Recording(
        model, call, sink, selection or Selection(), mode, exact, framework, module, verify,
        max_iterations, values or {}, stream, passes,
    )  # fmt: skip
    feed = inputs if callable(inputs) else _one_by_one(inputs)
    given = feed(None)
    while given is not None:
        given = feed(recording.step(given))
    return recording.finish()


def _one_by_one(inputs: Inputs | Sequence[Inputs]) -> Feed:
    left = iter([inputs] if isinstance(inputs, Mapping) else inputs)
    return lambda _result: next(left, None)
