"""What a capture keeps of the model's weights: digests, so that every trace can be audited, or the values too."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from firstdiff.traces.errors import SubjectError

if TYPE_CHECKING:
    from collections.abc import Callable

    from firstdiff.models.subject import Subject
    from firstdiff.traces import TraceWriter
    from firstdiff.traces.parameters import Parameter

Kept = Literal["none", "digests", "values"]
"""How much of the weights a trace holds."""

_SMALL = 1 << 14
_LONG = 1 << 22
_LAYERS = 128


def kept(weights: bool | None) -> Kept:
    """The option ``weights``: True the values, False nothing, None digests."""
    return "digests" if weights is None else "values" if weights else "none"


def keep_weights(
    subject: Subject, writer: TraceWriter, what: Kept, progress: Callable[[str], None]
) -> tuple[str, ...]:
    """Write digests of the subject's parameters as tables, and values: of all, or of small ones; notes.

    A model that shows no parameters, or whose parameters cannot be read, costs a note, never the capture.

    Raises:
        CaptureError: the trace cannot be written.
    """
    if what == "none" or _is_empty(subject.model):
        return ()
    from firstdiff.diff.weights.table import parameter_tables
    from firstdiff.models.parameters import subject_parameters

    try:
        parameters = subject_parameters(subject)
        progress(f"fingerprinting {len(parameters)} parameters")
        tables = parameter_tables(parameters)
    except (
        SubjectError,
        ArithmeticError,
        AttributeError,
        LookupError,
        MemoryError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:  # a user's arrays may be anything: donated, abstract, on another host
        return (f"the weights were not kept, so no audit of them is possible: {error}",)
    for name, rows in tables.items():
        writer.write_table(name, rows)
    for parameter in parameters:
        if parameter.load is not None and (what == "values" or is_small(parameter)):
            value = parameter.load().reshape(parameter.shape)
            writer.write_parameter(parameter.name, value, dtype=parameter.dtype)
    return ()


def own_parameters(subject: Subject) -> tuple[Parameter, ...]:
    """The parameters of a subject's model, with values; () when it shows none, or none that can be read."""
    from firstdiff.models.parameters import subject_parameters

    if _is_empty(subject.model):
        return ()
    try:
        return subject_parameters(subject)
    except (SubjectError, AttributeError, LookupError, RuntimeError, TypeError, ValueError):
        return ()


def is_small(parameter: Parameter) -> bool:
    """Whether a trace keeps the values in any case: vectors, also of many layers, of which digests tell little."""
    size, longest = parameter.size, max(parameter.shape, default=1)
    if size <= _SMALL:
        return True
    return size <= _LONG and (size // longest <= _LAYERS or "bias" in parameter.leaf)


def _is_empty(model: object) -> bool:
    return model is None or (isinstance(model, dict) and not model)
