"""What a front end emits, and who takes it. Apart, so that a front end knows neither HDF5 nor the differ."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np

    from firstdiff.traces.schema import Axis, Key


@dataclass(frozen=True)
class Event:
    """One value at one place of a running model."""

    key: Key
    """What names it, call index included."""
    value: np.ndarray
    """The value on the host, valid only until the sink returns: a view of live memory is allowed.

    C-contiguous. A dtype that numpy lacks (bfloat16, float8) is passed as unsigned bits of the same item size."""
    dtype: str
    """Logical dtype of ``value``: `bfloat16` where ``value`` is uint16 bits."""
    class_name: str = ""
    """Class of the module."""
    axes: tuple[Axis, ...] = ()
    """Enclosing transformations, outermost first."""
    source: str = ""
    """`file:line` in the user's code that made the value, when known."""
    same_as: Key | None = None
    """Key of an earlier event of this capture that is the very same value; a sink may store it once."""
    given: bool = False
    """Whether it is, unchanged, a value that was put in place of the model's own at an earlier tap."""


class Sink(Protocol):
    """Takes events in execution order."""

    def __call__(self, event: Event) -> None:
        """Store ``event`` before returning: its value may change afterwards."""
