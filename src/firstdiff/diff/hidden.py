"""What the rounding floor of a comparison hides. Apart from `judge`: agreement says as much about the floor as about
the port, and in bfloat16 real mistakes lie below it.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from firstdiff.diff.judge import WARN
from firstdiff.traces.dtypes import unit_roundoff

if TYPE_CHECKING:
    from collections.abc import Sequence

    from firstdiff.diff.row import Row


@dataclass(frozen=True)
class Hidden:
    """The size of fault that would not have been called a divergence: three floors, as relative L2."""

    dtype: str
    """The coarser run's dtype, whose rounding is the floor."""
    least: float
    """At the activation with the lowest floor: a smaller fault shows nowhere."""
    least_at: str
    """That activation."""
    median: float
    """At the activation in the middle."""
    most: float
    """At the activation with the highest floor: a larger fault shows wherever it lies."""
    most_at: str
    """That activation."""
    sentence: str = ""
    """For people, with the remedy; empty where the floor is that of float32 or finer."""

    @property
    def narrow(self) -> bool:
        """Whether a repetition in float32 would show more."""
        return is_narrow(self.dtype)


def is_narrow(dtype: str) -> bool:
    """Whether rounding in ``dtype`` is coarser than in float32."""
    return unit_roundoff(dtype) > unit_roundoff("float32") if dtype else False


def hidden_below(rows: Sequence[Row], dtype: str) -> Hidden | None:
    """What the floors of ``rows`` hide; None where no pair was judged by one, as when all values are equal."""
    floors = sorted(
        (WARN * row.floor.relative, f"{row.name or 'the model'} {row.label}")
        for row in rows
        if row.floor is not None and row.verdict.score is not None
    )
    if not floors:
        return None
    (least, least_at), (most, most_at) = floors[0], floors[-1]
    middle = median(size for size, _ in floors)
    found = Hidden(dtype, least, least_at, middle, most, most_at)
    return Hidden(dtype, least, least_at, middle, most, most_at, _sentence(found))


def _sentence(found: Hidden) -> str:
    if not found.narrow:
        return ""
    return (
        f"Below the floor of {found.dtype}: a fault that changes an activation by less than {found.least:.2%} of its "
        f"L2 norm ({found.least_at}) to {found.most:.2%} ({found.most_at}) does not show, such as a wrong epsilon or "
        f"a step of lower precision; repeat in float32."
    )
