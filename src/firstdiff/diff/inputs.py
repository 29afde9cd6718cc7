"""Whether two traces were made from the same inputs. If not, a comparison of activations would say nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from firstdiff.diff.layout import candidates, show
from firstdiff.traces.dtypes import unit_roundoff
from firstdiff.traces.errors import InputMismatch

if TYPE_CHECKING:
    from firstdiff.traces import Trace


@dataclass(frozen=True)
class InputCheck:
    """What the comparison of the models' inputs found. Inputs that differ end it with `InputMismatch`."""

    equal: tuple[str, ...] = ()
    """Names of the inputs that are equal on both sides, in value."""
    notes: tuple[str, ...] = ()
    """Sentences: inputs on one side only that say nothing new, other names, other dtypes, other layouts."""


def check_inputs(reference: Trace, port: Trace) -> InputCheck:
    """Compare the inputs by keyword and value.

    Equal numbers in different dtypes are equal. An input on one side only is fine when it says what holds without
    it (a mask of ones, positions that count the real tokens, zeros), or equals one of another name on the other side.

    Raises:
        InputMismatch: names the input, and how it differs.
    """
    ours, theirs = _read(reference), _read(port)
    equal, notes = [], []
    for name in [name for name in ours if name in theirs]:
        notes += _compare(name, reference, port, ours.pop(name), theirs.pop(name))
        equal.append(name)
    notes += _renamed(ours, theirs)
    mask = _mask(reference, port)
    for trace, left, other in ((reference, ours, "port"), (port, theirs, "reference")):
        for name, value in left.items():
            notes.append(_alone(trace, name, value, other, mask))
    if not equal and not notes:
        notes.append("Neither trace holds the model's inputs, so they could not be compared.")
    return InputCheck(tuple(equal), tuple(notes))


def _read(trace: Trace) -> dict[str, np.ndarray]:
    return {name: trace.input_values(name) for name in trace.inputs}


def _mask(reference: Trace, port: Trace) -> np.ndarray | None:
    for trace in (reference, port):
        if "attention_mask" in trace.inputs:
            return trace.input_values("attention_mask")
    return None


def _compare(
    name: str, reference: Trace, port: Trace, ours: np.ndarray, theirs: np.ndarray
) -> list[str]:
    """Notes on an input of both sides."""
    dtypes = reference.inputs[name].dtype, port.inputs[name].dtype
    tolerance = 2 * max(map(unit_roundoff, dtypes)) if dtypes[0] != dtypes[1] else 0.0
    if ours.shape == theirs.shape and _equal(ours, theirs, tolerance):
        return (
            []
            if dtypes[0] == dtypes[1] or not tolerance
            else [f"Input {name}: {dtypes[0]} against {dtypes[1]}, equal up to rounding."]
        )
    for layout in candidates(ours.shape, theirs.shape):
        if layout.kind != "identity" and _equal(
            layout.reference(ours), layout.port(theirs), tolerance
        ):
            return [f"Input {name}: {layout.words}, equal otherwise."]
    place = f"{reference.path.name} and {port.path.name} were made from different inputs: {name}"
    raise InputMismatch(f"{place} {_difference(ours, theirs, tolerance)}; {_remedy(reference)}")


def _equal(ours: np.ndarray, theirs: np.ndarray, tolerance: float) -> bool:
    if not tolerance:
        return np.array_equal(ours, theirs, equal_nan=ours.dtype.kind == theirs.dtype.kind == "f")
    return bool(np.allclose(ours, theirs, rtol=tolerance, atol=0, equal_nan=True))


def _difference(ours: np.ndarray, theirs: np.ndarray, tolerance: float) -> str:
    if ours.shape != theirs.shape:
        return f"has shape {show(ours.shape)} in the reference and {show(theirs.shape)} in the port"
    differs = (
        ~np.isclose(ours, theirs, rtol=tolerance, atol=0, equal_nan=True)
        if tolerance
        else ours != theirs
    )
    index = tuple(int(i) for i in np.unravel_index(int(differs.argmax()), ours.shape))
    at = f"[{','.join(map(str, index))}]"
    return (
        f"first differs at {at}: {ours[index]} in the reference, {theirs[index]} in the port "
        f"({int(differs.sum())} of {ours.size} elements differ)"
    )


def _remedy(reference: Trace) -> str:
    return f"run the port on the reference's inputs: firstdiff check {reference.path.name} PORT"


def _renamed(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> list[str]:
    """Takes inputs of other names but equal values out of both, and says so."""
    notes = []
    for name in list(ours):
        for other in list(theirs):
            if (
                name in ours
                and ours[name].shape == theirs[other].shape
                and _equal(ours[name], theirs[other], 0.0)
            ):
                notes.append(f"Input {name} is called {other} in the port; the values are equal.")
                del ours[name], theirs[other]
    return notes


def _alone(trace: Trace, name: str, value: np.ndarray, other: str, mask: np.ndarray | None) -> str:
    """The note on an input that only ``trace`` has; `InputMismatch` when it says something of its own."""
    why = _says_nothing(name, value, mask)
    if why is not None:
        return f"Input {name} is given to one side only ({trace.path.name}); {why}."
    raise InputMismatch(
        f"{trace.path.name} was made with the input {name} {show(value.shape)}, which the {other} was not given, and "
        f"whose values say something: {_example(name, value)}; give both sides the same inputs"
    )


def _says_nothing(name: str, value: np.ndarray, mask: np.ndarray | None) -> str | None:
    if "mask" in name and np.all(value == 1):
        return "it is all ones"
    if name in ("position_ids", "positions", "cache_position") and _counts(value, mask):
        return "it counts the tokens, as is done without it"
    if value.size and not np.any(value):
        return "it is all zeros"
    return None


def _counts(value: np.ndarray, mask: np.ndarray | None) -> bool:
    """Whether positions run 0, 1, 2, ... over each row, or over its real tokens under ``mask``."""
    if np.array_equal(value, np.broadcast_to(np.arange(value.shape[-1]), value.shape)):
        return True
    if mask is None or mask.shape != value.shape:
        return False
    expected = np.cumsum(mask > 0, axis=-1) - 1
    return bool(np.all((value == expected) | (mask <= 0)))


def _example(name: str, value: np.ndarray) -> str:
    if "mask" in name:
        return f"{int((value == 0).sum())} of {value.size} elements are masked"
    flat = ", ".join(str(item) for item in value.reshape(-1)[:4].tolist())
    return f"[{flat}{', ...' if value.size > 4 else ''}]"
