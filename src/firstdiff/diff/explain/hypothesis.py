"""A hypothesis: what the port would have recorded, had it made one particular mistake."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from firstdiff.diff.explain.scene import Scene

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Change:
    """A row of a table of wrong semantics: one setting of a computation that a port may have wrong."""

    cause: str
    """The class of mistake, a name of `causes.CAUSES`."""
    words: str
    """What is applied, as a phrase: `rotating q and k with interleaved pairs`."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the computation's specification that the mistake changes."""
    precision: bool = False
    """Whether it is a loss of precision, whose exact sequence of roundings nobody knows."""


@dataclass(frozen=True)
class Hypothesis:
    """One mistake, applied."""

    cause: str
    """The class of mistake, a name of `causes.CAUSES`."""
    words: str
    """What was applied, as a phrase."""
    value: np.ndarray
    """What it makes of the recorded inputs, in the reference's layout."""
    null: np.ndarray | None = None
    """What the right semantics make of the same inputs, NaN where not evaluated; None for the recorded value."""
    noise: float = 0.0
    """L2 norm of the error that parameters inferred from the trace bring into ``value``."""
    where: np.ndarray | None = None
    """bool of ``value``'s shape, True where it was evaluated; None means everywhere."""
    precision: bool = False
    """Whether it is a loss of precision: rounding can be told by its pattern, and need not vanish."""
    fitted: bool = False
    """Whether numbers in ``value`` were fitted to the port's tensor: an amplitude of 1 then says nothing."""
    group: int = 0
    """For a loss of precision: channels side by side that share a normaliser (a head for a softmax, all for a norm).
    The order of its sum, and so its rounding, is not known: one factor a group is left out of the pattern. 0: none."""


Family = Callable[[Scene], Iterator[Hypothesis]]
"""The hypotheses of one kind of computation; none where the right semantics do not reproduce the reference."""
