"""The two ways of recording a subject, PyTorch and JAX, behind one signature. A framework is imported on use."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from firstdiff.decoders import JaxDecoding, decoding_call
from firstdiff.decoding import described
from firstdiff.headers import jax_header, torch_header
from firstdiff.plan import Plan
from firstdiff.traces import Header, TraceWriter, storage
from firstdiff.traces.errors import OptionError, SubjectError
from firstdiff.traces.schema import Key

if TYPE_CHECKING:
    from firstdiff.inputs import Inputs
    from firstdiff.models.subject import Subject
    from firstdiff.tracer.events import Event, Sink
    from firstdiff.tracer.selection import Selection
    from firstdiff.tracer.torch import TorchCapture


Recorder = Callable[["Subject", "Inputs", TraceWriter, Plan, Header], Header]


def recorder_for(subject: Subject) -> Recorder:
    """The recorder of the subject's framework, found from its model unless the subject names it."""
    if subject.framework is not None:
        return record_torch if subject.framework == "torch" else record_jax
    torch = sys.modules.get("torch")
    is_torch = torch is not None and isinstance(subject.model, torch.nn.Module)
    return record_torch if is_torch else record_jax


def record_torch(
    subject: Subject, inputs: Inputs, writer: TraceWriter, plan: Plan, header: Header
) -> Header:
    """Run a torch model once under hooks, then once more in each precision that a noise floor needs."""
    from firstdiff.tracer.tensors import torch_tensor
    from firstdiff.tracer.torch import capture_torch

    def tensors() -> dict[str, Any]:  # fresh ones for each use: a model may change its arguments
        return {name: torch_tensor(given.value, given.dtype) for name, given in inputs.items()}

    _refuse_jax_options(plan)
    plan.progress("running the model under hooks")
    sink, decoder = event_writer(writer), None
    if plan.decoding is not None:
        subject, decoder = decoding_call(subject, plan.decoding)
        sink = decoder.cropped(sink)
    done = capture_torch(
        subject.model,
        subject.call,
        tensors(),
        sink=sink,
        selection=plan.selection,
        verify=plan.verify,
    )
    floors, notes = _floors(subject, tensors(), writer, plan, done)
    made = torch_header(header, subject, done)
    if decoder is not None and plan.decoding is not None:
        made = described(made, plan.decoding, decoder.fed)
    return replace(made, notes=(*made.notes, *notes), extra={**made.extra, "floors": floors})


def _floors(
    subject: Subject, inputs: dict[str, Any], writer: TraceWriter, plan: Plan, done: TorchCapture
) -> tuple[dict[str, dict[str, str]], tuple[str, ...]]:
    """The noise floors that ``plan`` asks for: what the header says of them, and notes."""
    from firstdiff.tracer.floors import record_all_floors

    wanted = (done.dtype, "bfloat16") if plan.floor is None else plan.floor
    if not wanted:
        return {}, ()
    return record_all_floors(
        subject.model,
        subject.call,
        inputs,
        writer=writer,
        dtypes=tuple(dict.fromkeys(wanted)),
        selection=plan.selection,
        local=not plan.digest,
        whole=plan.decoding is None,
        forward=done.seconds,
        progress=plan.progress,
    )


def _refuse_jax_options(plan: Plan) -> None:
    given = {
        "--stream": plan.stream,
        "--passes": plan.passes != 1,
        "--max-iterations": plan.max_iterations is not None,
    }
    named = [name for name, wanted in given.items() if wanted]
    if named:
        raise OptionError(
            f"{', '.join(named)}: for JAX only; hooks write every value of a PyTorch model at once"
        )


@contextmanager
def torch_block(
    model: Any, writer: TraceWriter, selection: Selection, header: Header
) -> Iterator[Callable[[], Header]]:
    """Record every forward of a torch ``model`` in the block; the first one's arguments become the trace's inputs.

    Yields a function that gives the finished header after the block.
    """
    from firstdiff.models.subject import Subject
    from firstdiff.tracer.torch import describe, recording

    if not hasattr(model, "register_forward_hook"):
        raise OptionError(
            f"capture as a block records torch modules, not {type(model).__name__}; "
            f"write firstdiff.capture(subject, output, inputs=...) instead"
        )
    write, seen = event_writer(writer), set[str]()

    def sink(event: Event) -> None:
        key = event.key
        if key.path == "" and key.site == "input" and key.step == 0 and key.leaf not in seen:
            seen.add(key.leaf)
            writer.write_input(key.leaf, event.value, dtype=event.dtype)
        write(event)

    with recording(model, sink, selection) as recorder:
        yield lambda: torch_header(
            header, Subject(model=model, name=header.subject), describe(model, recorder)
        )


def record_jax(
    subject: Subject, inputs: Inputs, writer: TraceWriter, plan: Plan, header: Header
) -> Header:
    """Run a JAX model once with its taps as extra outputs."""
    _require_recordable(subject, plan)
    from firstdiff.tracer.jax.capture import capture_jax
    from firstdiff.tracer.jax.inputs import jax_input

    plan.progress("tracing and running the port")
    sink, call, decoder = event_writer(writer), subject.call, None
    given: Any = {name: jax_input(found.value, found.dtype) for name, found in inputs.items()}
    if plan.decoding is not None:
        given = decoder = JaxDecoding(subject, inputs, plan.decoding)
        call, sink = decoder.call, decoder.cropped(sink)
    done = capture_jax(
        subject.model,
        call,
        given,
        sink=sink,
        selection=plan.selection,
        mode=plan.mode,
        exact=plan.exact,
        framework=subject.framework,
        module=subject.module,
        verify=plan.verify,
        stream=plan.stream,
        passes=plan.passes,
        max_iterations=plan.max_iterations,
    )
    if decoder is not None and plan.decoding is not None:
        header = described(header, plan.decoding, decoder.fed)
        if plan.decoding.keep_cache:
            _write_cache(writer, decoder)
    return jax_header(header, subject, done)


def _write_cache(writer: TraceWriter, decoder: JaxDecoding) -> None:
    """The contents of the cache after the last step."""
    for path, value in decoder.contents():
        stored, dtype = storage(value)
        # As something received: what agrees here proves no other value harmless.
        writer.write(Key(path, "input", "", "__call__"), stored, dtype=dtype)


def _require_recordable(subject: Subject, plan: Plan) -> None:
    """A clear sentence instead of a traceback from inside the tracer."""
    try:
        import jax  # noqa: F401  # only whether it is there
    except ImportError as error:
        raise OptionError(
            f"{subject.name}: capturing it needs jax; pip install 'firstdiff[jax]'"
        ) from error
    if any(base.__module__.startswith("flax.linen") for base in type(subject.model).__mro__):
        raise SubjectError(
            f"{subject.name}: model is a linen module, which holds no parameters; give the parameter tree as model "
            f"and call the module's apply in call, as in README, Plug in your own port"
        )
    if plan.floor:
        raise OptionError(
            "--floor: noise floors are recorded with the PyTorch reference, not with a JAX port"
        )


def event_writer(writer: TraceWriter) -> Sink:
    """A sink that writes each event to ``writer`` before it returns."""

    def write(event: Event) -> None:
        writer.write(
            event.key,
            event.value,
            dtype=event.dtype,
            class_name=event.class_name,
            axes=event.axes,
            source=event.source,
            same_as=event.same_as,
        )

    return write
