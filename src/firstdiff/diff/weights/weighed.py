"""The weights' part of a comparison, as data for reports: what is wrong, what merely differs, where names lie."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from firstdiff.diff.weights.modulemap import MapPair
    from firstdiff.diff.weights.verdict import Verdict


@dataclass(frozen=True)
class Weighed:
    """What the audit found, in the light of the activations."""

    parameters: int
    """Reference parameters that were to be loaded."""
    right: int
    """Those of which nothing is wrong."""
    headline: str
    """`290/290 equal (196 transposed)`."""
    wrong: tuple[Verdict, ...] = ()
    """What is to be repaired; the activations do not contradict it."""
    notes: tuple[Verdict, ...] = ()
    """Differences that are right in this port: its code goes with them, or nothing depends on them."""
    conflicts: tuple[MapPair, ...] = ()
    """Modules that were paired by their weights although names say something else."""
    cause: tuple[Verdict, ...] = ()
    """What explains the first divergence; () when the weights do not."""
    lines: tuple[str, ...] = ()
    """All of it for people, a line for everything of one kind."""
