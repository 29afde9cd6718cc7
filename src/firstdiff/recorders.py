"""The two ways of recording a subject, PyTorch and JAX, behind one signature. A framework is imported on use."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from firstdiff.decoders import JaxDecoding, decoding_call
from firstdiff.decoding import described
from firstdiff.traces import Header, TraceWriter, storage
from firstdiff.traces.errors import OptionError, SubjectError
from firstdiff.traces.schema import Key

if TYPE_CHECKING:
    from firstdiff.decoding import Decoding
    from firstdiff.inputs import Inputs
    from firstdiff.models.subject import Subject
    from firstdiff.tracer.events import Event, Sink
    from firstdiff.tracer.selection import Selection


@dataclass(frozen=True)
class Plan:
    """What is to be recorded, and how."""

    selection: Selection
    """Which activations are kept."""
    verify: bool = True
    """Whether the output is compared with that of a plain run."""
    mode: Literal["jit", "eager"] = "jit"
    """`jit` or `eager`, for JAX."""
    exact: bool = False
    """Compile JAX without excess precision."""
    stream: bool = False
    """Write each value while the JAX model runs."""
    passes: int = 1
    """Run JAX that many times and record a slice each time."""
    max_iterations: int | None = None
    """Keep that many first iterations of JAX's while loops instead of the last one."""
    floor: tuple[str, ...] | None = ()
    """Dtypes whose noise floor is recorded; None means the model's own and bfloat16."""
    digest: bool = False
    """Whether elements are left out."""
    decoding: Decoding | None = None
    """How far to decode after the prompt; None records one forward pass."""
    progress: Callable[[str], None] = lambda _message: None
    """Is told what is going on."""


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
    floors: dict[str, Any] = {}
    notes: tuple[str, ...] = ()
    wanted = (done.dtype, "bfloat16") if plan.floor is None else plan.floor
    if wanted:
        from firstdiff.tracer.floors import record_all_floors

        floors, notes = record_all_floors(
            subject.model,
            subject.call,
            tensors(),
            writer=writer,
            dtypes=tuple(dict.fromkeys(wanted)),
            selection=plan.selection,
            local=not plan.digest,
            whole=plan.decoding is None,
            forward=done.seconds,
            progress=plan.progress,
        )
    made = _torch_header(header, subject, done)
    if decoder is not None and plan.decoding is not None:
        made = described(made, plan.decoding, decoder.fed)
    return replace(made, notes=(*made.notes, *notes), extra={**made.extra, "floors": floors})


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
        yield lambda: _torch_header(
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
        for path, value in decoder.contents() if plan.decoding.keep_cache else ():
            stored, dtype = storage(value)
            # As something received: what agrees here proves no other value harmless.
            writer.write(Key(path, "input", "", "__call__"), stored, dtype=dtype)
    return replace(
        header,
        framework="jax",
        front_end=done.front_end,
        mode=done.mode,
        model=_model(subject, done.parameters),
        dtype=done.dtype,
        device=done.device,
        versions=done.versions,
        precision=done.precision,
        output_check=done.output_check,
        modules=tuple(done.modules),
        aliases=dict(done.aliases),
        never_fired=tuple(done.never_fired),
        notes=(*header.notes, *done.notes),
        extra={**header.extra, **functions_of(done)},
    )


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


def _torch_header(header: Header, subject: Subject, done: Any) -> Header:
    from firstdiff.tracer.neutral import neutral_counts

    return replace(
        header,
        framework="torch",
        front_end="torch",
        mode="eager",
        model=_model(subject, done.parameters),
        dtype=done.dtype,
        device=done.device,
        versions=done.versions,
        precision=done.precision,
        output_check=done.output_check,
        modules=done.modules,
        aliases=done.aliases,
        never_fired=done.never_fired,
        notes=(*header.notes, *done.notes),
        extra={
            **header.extra,
            **functions_of(done),
            "neutral": neutral_counts(subject.model),
        },
    )


def functions_of(done: Any) -> dict[str, Any]:
    """What `Header.extra` says of the functions that a capture below the level of modules saw."""
    return {"functions": dict(done.functions)} if done.functions else {}


def _model(subject: Subject, parameters: int) -> dict[str, Any]:
    """What a header says of the model: class, type, configuration and its hash, number of parameters."""
    config = plain(subject.config or _own_config(subject.model))
    described: dict[str, Any] = {"class": type(subject.model).__name__, "parameters": parameters}
    if config:
        text = json.dumps(config, sort_keys=True)
        described |= {"config": config, "config_hash": hashlib.sha256(text.encode()).hexdigest()}
        if config.get("model_type"):
            described["type"] = config["model_type"]
    return described


def _own_config(model: Any) -> Mapping[str, Any]:
    """The configuration that a Hugging Face model carries."""
    to_dict = getattr(getattr(model, "config", None), "to_dict", None)
    found = to_dict() if callable(to_dict) else {}
    return found if isinstance(found, Mapping) else {}


def plain(value: Any) -> Any:
    """``value`` in plain JSON types; what has none becomes its text."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [plain(item) for item in value]
    return str(value)
