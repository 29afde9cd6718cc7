"""`capture`: from a subject and its inputs to a complete trace. Apart from the tracers, which know no files."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from firstdiff.captured import Capture
from firstdiff.decoding import Decoding, decoding_of
from firstdiff.feeding import choose_inputs, fit_inputs, with_positions
from firstdiff.kept_weights import Kept, keep_weights, kept
from firstdiff.models.loading import load_subject
from firstdiff.models.subject import Subject
from firstdiff.plan import Plan, selection_of
from firstdiff.recorders import recorder_for
from firstdiff.traces import Header, open_trace
from firstdiff.traces.errors import OptionError
from firstdiff.writing import refuse_existing, writing

if TYPE_CHECKING:
    from firstdiff.inputs import Inputs
    from firstdiff.traces.schema import Level


def capture(subject: Any, output: Any, **options: Any) -> Any:
    """Record one run of a model into a trace.

    ``capture(subject, "ref.h5", **options)`` runs ``subject`` (a `Subject`, `hf:DIR`, `file.py:name`, a torch
    module, or a JAX function of its inputs) and returns a `Capture`; the options are those of `record`.

    ``with capture("ref.h5", model): model(**inputs)`` records what a torch ``model`` does inside the block.
    """
    if isinstance(output, str | Path):
        return record(subject, output, **options)
    return record_block(subject, output, **options)


def record(
    subject: Any,
    output: str | Path,
    *,
    inputs: str | Path | Mapping[str, Any] | None = None,
    prompt: str | Sequence[str] | None = None,
    prompt_file: str | Path | None = None,
    input_ids: str | None = None,
    steps: int | Decoding = 0,
    dtype: str | None = None,
    select: Sequence[str] = (),
    inputs_only: bool = False,
    outputs_only: bool = False,
    level: Level = "module",
    inside: Sequence[str] = (),
    digest: bool = False,
    weights: bool | None = None,
    floor: Sequence[str] | None = None,
    attn_implementation: str = "eager",
    trust_remote_code: bool = False,
    mode: Literal["jit", "eager"] = "jit",
    exact: bool = False,
    stream: bool = False,
    passes: int = 1,
    max_iterations: int | None = None,
    framework: str | None = None,
    verify: bool = True,
    force: bool = False,
    progress: Callable[[str], None] = lambda _message: None,
) -> Capture:
    """Run ``subject`` once and write ``output``.

    Args:
        subject: a `Subject`, what `load_subject` reads, a torch module, or a JAX function of its inputs.
        output: the trace to write; `output.part` while it is being written.
        inputs: by keyword, or a `.npz`, `.safetensors` or trace that holds them.
        prompt, prompt_file, input_ids: inputs of a language model as text or as token ids.
        steps: decode that many tokens after the prompt: those of the trace ``inputs`` where it has some, else in each
            row the one with the largest logit. A `Decoding` says which.
        dtype: load the weights in this dtype.
        select: keep modules whose path matches any of these globs.
        inputs_only, outputs_only: record only what modules receive, or only what they return.
        level: `function` records what the model's own functions take and return too, `op` every operation as well.
        inside: look so deep only into modules whose path matches any of these globs.
        digest: keep statistics, not elements.
        weights: True keeps every parameter in full, None digests of them, False nothing.
        floor: dtypes whose noise floor is recorded (PyTorch); None means the model's own and bfloat16.
        mode: `jit` or `eager`, for JAX; ``exact`` compiles without excess precision.
        stream: JAX: write each value while the model runs (one device); bounds the memory.
        passes: JAX: run that many times and record a slice each time; bounds the memory too.
        max_iterations: JAX: keep that many first iterations of while loops, not only the last one.
        framework: overrides the detection.
        verify: compare the model's output with and without capture.
        force: overwrite ``output``.
        progress: is told what is going on.

    Raises:
        SubjectError: the model cannot be loaded or fails on these inputs.
        OptionError: an option is impossible.
        CaptureError: ``output`` exists, nothing was recorded, out of disk, or interrupted.
    """
    began = time.monotonic()
    refuse_existing(Path(output), force)
    plan = Plan(
        selection=selection_of(select, inputs_only, outputs_only, level, inside),
        verify=verify,
        mode=mode,
        exact=exact,
        stream=stream,
        passes=passes,
        max_iterations=max_iterations,
        floor=None if floor is None else tuple(floor),
        digest=digest,
        decoding=_decoding(steps, inputs),
        progress=progress,
    )
    progress("loading the model")
    given = as_subject(subject, dtype, framework, attn_implementation, trust_remote_code)
    chosen = choose_inputs(given, inputs, prompt, prompt_file, input_ids)
    chosen, made = with_positions(given, chosen) if steps else (chosen, ())
    done = _written(given, chosen, output, plan, weights=kept(weights), force=force, notes=made)
    return replace(done, seconds=time.monotonic() - began)


def _written(
    given: Subject,
    inputs: Inputs,
    output: str | Path,
    plan: Plan,
    *,
    weights: Kept,
    force: bool,
    notes: tuple[str, ...],
) -> Capture:
    """Run ``given`` by ``plan`` on what it takes of ``inputs``, and write ``output``; the time is not taken."""
    recorder = recorder_for(given)
    fitted, dropped = fit_inputs(given, inputs)
    first = _header(given, plan)
    with writing(output, first, digest=plan.digest, force=force) as writer:
        for name, tensor in fitted.items():
            writer.write_input(name, tensor.value, dtype=tensor.dtype)
        notes = (*notes, *dropped, *keep_weights(given, writer, weights, plan.progress))
        header = recorder(given, fitted, writer, plan, first)
        plan.progress("closing the trace")
        header = replace(header, notes=(*header.notes, *notes))
        path = writer.finish(header)
    return Capture(path, header, writer.count, path.stat().st_size, seconds=0.0)


@contextmanager
def record_block(output: str | Path, model: Any, **options: Any) -> Iterator[None]:
    """Record every forward of the torch module ``model`` inside the block; each is a step.

    Options: ``select``, ``inputs_only``, ``outputs_only``, ``level``, ``digest``, ``weights``, ``force``, as in
    `record`.
    """
    from firstdiff.recorders import torch_block

    force, digest = options.pop("force", False), options.pop("digest", False)
    wanted = kept(options.pop("weights", None))
    selection = selection_of(
        options.pop("select", ()),
        options.pop("inputs_only", False),
        options.pop("outputs_only", False),
        options.pop("level", "module"),
    )
    if options:
        raise OptionError(f"capture: no option {', '.join(options)} when recording a block of code")
    refuse_existing(Path(output), force)
    subject = Subject(model=model, name=type(model).__name__)
    first = _header(subject, Plan(selection=selection, digest=digest))
    with writing(output, first, digest=digest, force=force) as writer:
        block: AbstractContextManager[Callable[[], Header]] = torch_block(
            model, writer, selection, first
        )
        with block as finished:
            notes = keep_weights(subject, writer, wanted, lambda _message: None)
            yield
        header = finished()
        writer.finish(replace(header, notes=(*header.notes, *notes)))


def as_subject(
    subject: Any,
    dtype: str | None = None,
    framework: str | None = None,
    attn_implementation: str = "eager",
    trust_remote_code: bool = False,
) -> Subject:
    """Whatever a user may hand over, as a `Subject`."""
    if isinstance(subject, str | Path):
        return load_subject(
            str(subject),
            dtype=dtype,
            framework=framework,
            attn_implementation=attn_implementation,
            trust_remote_code=trust_remote_code,
        )
    if dtype is not None:
        raise OptionError(
            f"dtype {dtype}: only a subject that is loaded by name can be loaded in another dtype"
        )
    if isinstance(subject, Subject):
        return replace(subject, framework=framework or subject.framework)
    if (
        is_torch_module(subject)
        or not callable(subject)
        or hasattr(subject, "__dataclass_fields__")
    ):
        return Subject(model=subject, framework=framework, name=type(subject).__name__)
    name = getattr(subject, "__qualname__", type(subject).__name__)
    return Subject(
        model={}, call=lambda _model, **given: subject(**given), framework=framework, name=name
    )


def is_torch_module(model: object) -> bool:
    """Whether ``model`` is a torch module; torch is not imported to find out."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(model, torch.nn.Module)


def _decoding(steps: int | Decoding, inputs: Any) -> Decoding | None:
    """What ``steps`` asks for, with the tokens of the trace ``inputs`` where it is one that decodes."""
    if isinstance(steps, Decoding):
        return steps if steps.steps or steps.keep_cache else None
    if steps and isinstance(inputs, str | Path) and Path(inputs).suffix in (".h5", ".hdf5"):
        with open_trace(inputs) as trace:
            if "decoding" in trace.header.extra:
                return decoding_of(trace, steps)
    return Decoding(steps) if steps else None


def _header(subject: Subject, plan: Plan) -> Header:
    selection = {
        "globs": list(plan.selection.globs),
        "sites": list(plan.selection.sites),
        "level": plan.selection.level,
        "digest": plan.digest,
    }
    return Header(
        framework="torch" if is_torch_module(subject.model) else "jax",
        subject=subject.name,
        selection=selection,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
