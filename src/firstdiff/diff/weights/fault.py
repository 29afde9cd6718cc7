"""One thing that is wrong with a match of two parameters, or worth a note."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from firstdiff.diff.weights.verdict import Finding, Status


@dataclass(frozen=True)
class Fault:
    """Why a match is not simply right."""

    status: Status
    """`wrong` or `note`."""
    finding: Finding
    """In a word."""
    words: str
    """In a sentence."""
    remedy: str = ""
    """What would make it right."""
