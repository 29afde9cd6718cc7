"""One run of a port with values planted, JAX or PyTorch, behind one signature. A framework is imported on use."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from firstdiff.decoders import JaxDecoding, decoding_call
from firstdiff.feeding import fit_inputs
from firstdiff.headers import functions_of
from firstdiff.recorders import event_writer
from firstdiff.recording import is_torch_module
from firstdiff.traces import Header, TraceWriter
from firstdiff.traces.errors import OptionError

if TYPE_CHECKING:
    from firstdiff.decoding import Decoding
    from firstdiff.diff.planting import Planting
    from firstdiff.inputs import Inputs
    from firstdiff.models.subject import Subject
    from firstdiff.tracer.selection import Selection
    from firstdiff.traces.schema import Key


def run_planted(
    subject: Subject,
    inputs: Inputs,
    plan: Planting,
    path: Path,
    mode: str,
    exact: bool,
    decoding: Decoding | None = None,
    selection: Selection | None = None,
) -> tuple[Path, dict[Key, str]]:
    """Run the port with values put in; its own values go to ``path``. Keys that took one, others with a reason.

    ``selection`` may look below the level of modules; None records modules, without digests.
    """
    fitted = fit_inputs(subject, inputs)[0]
    torch = is_torch_module(subject.model)
    header = Header(framework="torch" if torch else "jax")
    with TraceWriter(path, header, digest=selection is not None) as writer:
        if torch:
            planted, header = _force_torch(subject, fitted, plan, writer, decoding, selection)
        else:
            planted, header = _force_jax(
                subject, fitted, plan, writer, mode, exact, decoding, selection
            )
        writer.finish(header)
    return path, planted


def _force_jax(
    subject: Subject,
    inputs: Inputs,
    plan: Planting,
    writer: TraceWriter,
    mode: str,
    exact: bool,
    decoding: Decoding | None,
    selection: Selection | None,
) -> tuple[dict[Key, str], Header]:
    from firstdiff.tracer.jax.capture import capture_jax
    from firstdiff.tracer.jax.inputs import jax_input

    sink, call, values = event_writer(writer), subject.call, dict(plan.values())
    given: Any = {name: jax_input(found.value, found.dtype) for name, found in inputs.items()}
    if decoding is not None:
        given = decoder = JaxDecoding(subject, inputs, decoding)
        call, sink, values = decoder.call, decoder.cropped(sink), decoder.uncropped(values)
    done = capture_jax(
        subject.model,
        call,
        given,
        sink=sink,
        selection=selection,
        mode=mode,  # type: ignore[arg-type]  # checked there
        exact=exact,
        framework=subject.framework,
        module=subject.module,
        verify=False,
        values=values,
    )
    header = Header(framework="jax", front_end=done.front_end, extra=functions_of(done))
    return {**dict.fromkeys(done.planted, ""), **done.refused}, header


def _force_torch(
    subject: Subject,
    inputs: Inputs,
    plan: Planting,
    writer: TraceWriter,
    decoding: Decoding | None,
    selection: Selection | None,
) -> tuple[dict[Key, str], Header]:
    from firstdiff.tracer.reference import Reference
    from firstdiff.tracer.switches import model_dtype

    taps = plan.keys()
    if decoding is not None:
        subject = decoding_call(subject, decoding)[0]
    if selection is not None:
        return _force_torch_inside(subject, inputs, plan, writer, selection)
    model = Reference(
        subject.model,
        subject.call,
        tensors_of(inputs),
        lambda key: plan.value(taps[key]) if key in taps else None,
    )
    forced = model.run(model_dtype(subject.model), lambda: event_writer(writer))
    if isinstance(forced, str):
        raise OptionError(f"{subject.name}: it does not run with given values: {forced}")
    return dict.fromkeys(forced, ""), Header(framework="torch")


def _force_torch_inside(
    subject: Subject, inputs: Inputs, plan: Planting, writer: TraceWriter, selection: Selection
) -> tuple[dict[Key, str], Header]:
    from firstdiff.tracer.forced_run import run_forced_inside

    values = {key: value for key, tap in plan.keys().items() if (value := plan.value(tap))}
    forced, functions = run_forced_inside(
        subject.model,
        subject.call,
        tensors_of(inputs),
        sink=event_writer(writer),
        selection=selection,
        values=values,
    )
    header = Header(framework="torch", extra={"functions": functions})
    return dict.fromkeys(forced, ""), header


def tensors_of(inputs: Inputs) -> dict[str, Any]:
    """Model inputs as torch tensors."""
    from firstdiff.tracer.tensors import torch_tensor

    return {name: torch_tensor(given.value, given.dtype) for name, given in inputs.items()}
