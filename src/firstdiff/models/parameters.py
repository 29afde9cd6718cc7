"""Where parameters come from: a checkpoint on disk, or a subject's model, whatever its framework."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from firstdiff.models.checkpoint_files import checkpoint_parameters, is_checkpoint
from firstdiff.models.subject import Subject
from firstdiff.traces.errors import FirstdiffError, OptionError, SubjectError
from firstdiff.traces.parameters import Parameter

Extract = Callable[[Any], Sequence[Parameter]]

_PLACES: dict[str, tuple[str, str]] = {
    "torch": ("torch", "firstdiff.tracer.torch_parameters:torch_parameters"),
    "nnx": ("flax.nnx", "firstdiff.tracer.jax.nnx_parameters:nnx_parameters"),
    "equinox": ("equinox", "firstdiff.tracer.jax.equinox_parameters:equinox_parameters"),
    "keras": ("keras", "firstdiff.tracer.jax.keras_parameters:keras_parameters"),
    "linen": ("flax", "firstdiff.tracer.jax.parameters:linen_parameters"),
    "haiku": ("haiku", "firstdiff.tracer.jax.parameters:haiku_parameters"),
    "functions": ("", "firstdiff.tracer.jax.parameters:tree_parameters"),
}
"""By framework: the package without which no such model exists, and its extractor; the first that takes a model."""


def parameters_of(source: str | Path | Subject | Sequence[Parameter]) -> tuple[Parameter, ...]:
    """The parameters of a checkpoint folder or file, or of a subject; given ones as they are.

    Raises:
        SubjectError: there are none, or the file is damaged.
        OptionError: ``source`` is nothing that holds parameters.
    """
    if isinstance(source, Subject):
        return subject_parameters(source)
    if isinstance(source, str | Path):
        if not is_checkpoint(source):
            raise OptionError(
                f"{source}: no weights; give a safetensors file, a folder with model.safetensors, a trace, or a "
                f"subject (hf:DIR, file.py:name)"
            )
        return checkpoint_parameters(source)
    return tuple(source)


def subject_parameters(subject: Subject) -> tuple[Parameter, ...]:
    """The parameters, and buffers, of a subject's model. Raises `SubjectError` when it has none."""
    for framework, (package, target) in _PLACES.items():
        if subject.framework not in (None, framework) or (package and package not in sys.modules):
            continue
        module, _, name = target.partition(":")
        extract = cast("Extract", getattr(importlib.import_module(module), name))
        found = tuple(extract(subject.model))
        if found:
            return found
    raise SubjectError(
        f"{subject.name or 'the subject'}: no parameters found in a {type(subject.model).__name__}; "
        f"Subject.model is a module or a tree of arrays"
    )


def modules_of(
    subject: Subject, inputs: Mapping[str, Any] | None = None
) -> tuple[tuple[str, str], ...]:
    """(path, class name) of every module of a subject, in its own order.

    With ``inputs``, JAX arrays by keyword, those of a JAX model that run, in that order: linen and Haiku know modules
    without parameters only while they run. The model is traced for it, not run.
    """
    named = getattr(subject.model, "named_modules", None)
    if "torch" in sys.modules and named is not None:
        return tuple(
            (path, type(module).__name__)
            for path, module in named()
            if type(module).__name__ != "ModuleList"
        )
    return _traced_modules(subject, inputs) or _listed_modules(subject)


def _traced_modules(
    subject: Subject, inputs: Mapping[str, Any] | None
) -> tuple[tuple[str, str], ...]:
    if not inputs or subject.framework == "torch":
        return ()
    from firstdiff.tracer.jax.listing import list_activations

    try:
        found = list_activations(
            subject.model,
            subject.call,
            inputs,
            framework=subject.framework,
            module=subject.module,
        )
    except FirstdiffError:  # these inputs are not for this model; its own list will do
        return ()
    return tuple({a.key.path: (a.key.path, a.class_name) for a in reversed(found)}.values())[::-1]


def _listed_modules(subject: Subject) -> tuple[tuple[str, str], ...]:
    if "jax" not in sys.modules:
        return ()
    from firstdiff.tracer.jax.frontend import FALLBACK, front_ends_for

    for front in front_ends_for(subject.model, subject.framework):
        if front.name != FALLBACK and front.handles(subject.model):
            return tuple(front.modules(subject.model, subject.module))
    return ()
