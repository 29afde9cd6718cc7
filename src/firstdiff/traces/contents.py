"""What a trace file holds, however it was found out: from the index of a complete one or the journal of another."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from firstdiff.traces.schema import Activation, Header


@dataclass(frozen=True)
class TablePlace:
    """Where a table's rows lie."""

    address: int
    """Of its first byte in the file."""
    dtype: np.dtype
    """Structured dtype of its rows."""
    rows: int
    """Number of rows."""


class Contents(ABC):
    """The header is read at once, everything else when it is asked for. Every method raises `TraceError` for damage."""

    complete: bool
    """Whether the capture finished."""
    header: Header
    """How the trace was made."""

    @abstractmethod
    def activations(self) -> tuple[Activation, ...]:
        """Everything recorded, in execution order."""

    @abstractmethod
    def inputs(self) -> dict[str, Activation]:
        """The model's inputs by name, each as an activation."""

    @abstractmethod
    def parameters(self) -> dict[str, Activation]:
        """The model's parameters by name, each as an activation; empty where only digests were kept."""

    @abstractmethod
    def tables(self) -> dict[str, TablePlace]:
        """The tables by name."""

    @abstractmethod
    def locate(self, dataset: str) -> tuple[int, int]:
        """Address and size in bytes of a dataset that holds activations."""

    def close(self) -> None:
        """Let go of the file."""
        return
