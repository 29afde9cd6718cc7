"""One parameter on its way from the reference to a twin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from firstdiff.models.twins.rules import Kind


@dataclass(frozen=True)
class Entry:
    """One parameter on the way from reference to port."""

    path: str
    """Module, with the reference's words."""
    leaf: str
    """`weight` or `bias`, or what the reference calls it."""
    value: np.ndarray
    """As PyTorch lays it."""
    kind: Kind
    """What it is."""
    sources: tuple[str, ...]
    """Names of the reference parameters that it was made of, in order."""
