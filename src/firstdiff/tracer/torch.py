"""Capture of PyTorch models.

Apart from `hooks.py`: here a model is run, checked and described; there its values are taken.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from firstdiff.tracer.hooks import Recorder
from firstdiff.tracer.outputs import Value, distance, values
from firstdiff.tracer.selection import Selection
from firstdiff.tracer.state import rewindable
from firstdiff.tracer.switches import model_device, model_dtype, precision_switches, versions
from firstdiff.tracer.torch_inside import inside
from firstdiff.traces.errors import CaptureError, FirstdiffError, SubjectError

if TYPE_CHECKING:
    from firstdiff.tracer.events import Sink

EVERYTHING = Selection()
"""Every module, inputs and outputs."""

Call = Callable[..., Any]


@dataclass(frozen=True)
class TorchCapture:
    """What one capture of a torch model found, besides the events that went to the sink."""

    outputs: dict[str, Value]
    """What the call returned, by leaf name (`""`, `logits`); caches are left out."""
    modules: tuple[tuple[str, str], ...]
    """Every module as (path, class name), in the model's own order."""
    aliases: dict[str, tuple[str, ...]]
    """Other paths of a shared module, by the path under which it is recorded."""
    never_fired: tuple[str, ...]
    """Selected modules with a forward of their own that recorded nothing."""
    output_check: dict[str, Any]
    """`checked`, `bitwise`, `max_abs`, and `deterministic` where a third run was needed to know."""
    device: str
    """Device of the parameters."""
    dtype: str
    """Dtype of most parameters."""
    versions: dict[str, str]
    """Package versions."""
    precision: dict[str, Any]
    """Every switch that changes arithmetic."""
    notes: tuple[str, ...]
    """Sentences for people."""
    parameters: int
    """Number of parameter elements, shared ones counted once."""
    steps: int
    """Forward passes of the model."""
    functions: dict[str, str]
    """Where the model's own functions that ran are defined, `file:line` by `Key.method`; empty at module level."""
    seconds: float | None = None
    """Wall time of one call: of the plain one that checked the outputs, else of the recorded one."""


@contextmanager
def recording(
    model: nn.Module, sink: Sink, selection: Selection = EVERYTHING
) -> Iterator[Recorder]:
    """Record every forward of ``model`` that runs inside; each one of the root module is a step of
    its own.

    An exception of the sink is raised even if the model swallowed it. The hooks are gone
    afterwards, whatever happens. Raises CaptureError when nothing at all was recorded.
    """
    with (
        Recorder(model, sink, selection) as recorder,
        inside(model, recorder, selection) as recorder.functions,
    ):
        yield recorder
    if recorder.failure is not None:
        raise recorder.failure
    if not recorder.recorded:
        raise CaptureError(_silence(model, recorder, selection))


def _silence(model: nn.Module, recorder: Recorder, selection: Selection) -> str:
    """Why nothing was recorded, and what to do."""
    name, paths = type(model).__name__, [path for path in recorder.tree.paths.values() if path]
    if selection.globs and not any(selection.wants(p, s) for p in paths for s in selection.sites):
        globs = ", ".join(map(repr, selection.globs))
        example = paths[len(paths) // 2] if paths else ""
        return (
            f"{name}: no activation matches --select {globs} among {len(paths)} modules; "
            f"paths look like {example!r}, and * matches any part"
        )
    why = "; ".join(recorder.notes) or "no module ran"
    return (
        f"{name}: nothing was recorded: {why}; capture the model before torch.compile or torch.jit"
    )


def capture_torch(
    model: nn.Module,
    call: Call | None,
    inputs: Mapping[str, Any],
    *,
    sink: Sink,
    selection: Selection = EVERYTHING,
    verify: bool = True,
) -> TorchCapture:
    """Run ``call(model, **inputs)`` once without gradients and send every value to ``sink``.

    ``call`` None means ``model(**inputs)``; it may run the model several times (generation), each
    run is a step. With ``verify`` it is run once more without hooks, from the same random state and
    the same buffers, and the outputs are compared: `output_check`. Training mode is left as it is.
    Raises SubjectError when the model raises, CaptureError when nothing was recorded.
    """
    again = pristine(inputs) if verify else {}
    with torch.no_grad(), rewindable(model) as rewind:
        began = time.monotonic()
        with recording(model, sink, selection) as recorder:
            outputs = values(run(model, call, inputs))
        seconds = time.monotonic() - began
        check: dict[str, Any] = {"checked": False}
        if verify:
            began = time.monotonic()
            check = _check(model, call, again, outputs, rewind)
            seconds = time.monotonic() - began
    done = describe(model, recorder, outputs=outputs, output_check=check)
    return replace(done, seconds=seconds)


def run(model: nn.Module, call: Call | None, inputs: Mapping[str, Any]) -> Any:
    """One call of the user's model; what it raises becomes a SubjectError that says so."""
    try:
        return model(**inputs) if call is None else call(model, **inputs)
    except FirstdiffError:
        raise
    except Exception as error:  # the user's model
        shapes = ", ".join(f"{k} {_short(v)}" for k, v in inputs.items())
        raise SubjectError(
            f"{type(model).__name__}: its forward raised {type(error).__name__}: {error} "
            f"(inputs: {shapes})"
        ) from error


def describe(
    model: nn.Module,
    recorder: Recorder,
    *,
    outputs: dict[str, Value] | None = None,
    output_check: dict[str, Any] | None = None,
) -> TorchCapture:
    """What a header wants to know after a recording of ``model``."""
    notes = [*recorder.notes, *_training_notes(model), *_rotary_notes(model)]
    check = output_check or {"checked": False}
    if check.get("deterministic") is False:
        notes.append("the model is not deterministic: two runs without hooks differ as well")
    return TorchCapture(
        outputs=outputs or {},
        modules=tuple((path, type(m).__name__) for m, path in recorder.tree.paths.items()),
        aliases=dict(recorder.tree.aliases),
        never_fired=recorder.never_fired(),
        output_check=check,
        device=model_device(model),
        dtype=model_dtype(model),
        versions=versions(),
        precision=precision_switches(model),
        notes=tuple(notes),
        parameters=sum(p.numel() for p in model.parameters()),
        steps=recorder.step + 1,
        functions=dict(recorder.functions),
    )


def pristine(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of the inputs that a model which changes its arguments (a cache, an in-place op)
    cannot reach.
    """
    return {
        name: value.detach().clone() if isinstance(value, torch.Tensor) else copy.deepcopy(value)
        for name, value in inputs.items()
    }


def _check(
    model: nn.Module,
    call: Call | None,
    inputs: Mapping[str, Any],
    recorded: dict[str, Value],
    rewind: Callable[[], None],
) -> dict[str, Any]:
    """Compare the recorded outputs with those of a plain run; a second plain run tells noise from
    influence.
    """
    spare = pristine(inputs)
    rewind()
    plain = values(run(model, call, inputs))
    bitwise, max_abs = distance(recorded, plain)
    check: dict[str, Any] = {"checked": True, "bitwise": bitwise, "max_abs": max_abs}
    if not bitwise:
        rewind()
        check["deterministic"] = distance(plain, values(run(model, call, spare)))[0]
    return check


def _training_notes(model: nn.Module) -> list[str]:
    """A warning when random layers are active."""
    active = [
        path
        for path, module in model.named_modules()
        if module.training and isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0
    ]
    if not active:
        return []
    return [
        f"{active[0]} and {len(active) - 1} more dropout modules are in training mode: "
        "the values are random; call model.eval() first"
        if len(active) > 1
        else f"{active[0]} is in training mode: its values are random; call model.eval() first"
    ]


def _rotary_notes(model: nn.Module) -> list[str]:
    """A warning when `model.to(bfloat16)` has rounded rotary frequencies, which no loader does."""
    return [
        f"{name} is {str(buffer.dtype).removeprefix('torch.')}: model.to() or model.half() rounded "
        "it, and every position is rotated wrongly; load the model with dtype= instead"
        for name, buffer in model.named_buffers()
        if name.endswith("inv_freq") and buffer.dtype in (torch.bfloat16, torch.float16)
    ]


def _short(value: object) -> str:
    if isinstance(value, torch.Tensor):
        return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
    return type(value).__name__
