"""What a trace's header says of a finished capture: the model, the machine, what ran; alike for both frameworks."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from firstdiff.models.subject import Subject
    from firstdiff.tracer.jax.captured import JaxCapture
    from firstdiff.tracer.torch import TorchCapture
    from firstdiff.traces import Header


def torch_header(header: Header, subject: Subject, done: TorchCapture) -> Header:
    """``header`` with what a capture of a torch model found."""
    from firstdiff.tracer.neutral import neutral_counts

    made = _found(header, subject, done)
    extra = {**made.extra, "neutral": neutral_counts(subject.model)}
    return replace(made, framework="torch", front_end="torch", mode="eager", extra=extra)


def jax_header(header: Header, subject: Subject, done: JaxCapture) -> Header:
    """``header`` with what a capture of a JAX model found."""
    made = _found(header, subject, done)
    return replace(made, framework="jax", front_end=done.front_end, mode=done.mode)


def _found(header: Header, subject: Subject, done: TorchCapture | JaxCapture) -> Header:
    """What both frameworks' captures say."""
    return replace(
        header,
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


def functions_of(done: Any) -> dict[str, Any]:
    """What `Header.extra` says of the functions that a capture below the level of modules saw."""
    return {"functions": dict(done.functions)} if done.functions else {}


def _model(subject: Subject, parameters: int) -> dict[str, Any]:
    """What a header says of the model: class, type, configuration and its hash, number of parameters."""
    config = _plain(subject.config or _own_config(subject.model))
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


def _plain(value: Any) -> Any:
    """``value`` in plain JSON types; what has none becomes its text."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [_plain(item) for item in value]
    return str(value)
