"""What stands in for a noise floor that the reference's trace does not have, each named. Apart from the floors.

In this order: the reference in the port's dtype against float64 (recorded, no stand-in); the same against one precision
up, where float64 was refused; the drift that was recorded for another dtype, scaled by unit roundoffs; a constant.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from firstdiff.traces.dtypes import unit_roundoff

if TYPE_CHECKING:
    import numpy as np

    from firstdiff.traces import Trace

PREFIX = "floor/free/"
CONSTANT = {"float64": 85.0, "float32": 85.0, "float16": 21.0, "bfloat16": 11.0}
"""In units of u, where no floor was recorded. Thrice it (the limit) is 256 u and 32 u: the drift over six layers of
a right port stays below both, measured for float32 and bfloat16; float16 lies between, not measured."""
OTHER_CONSTANT = 11.0
_SHORT = ("bfloat16", "float16")
NARROWING, WIDENING = 1 / 3, 5.0
"""Drift in units of u, of a 16-bit dtype over float32's and back: 0.2 to 0.35 at all but a few activations of 6 and 24
layers (measured), because products are summed in float32 in both. The larger end each way: no false alarm."""

LOCAL = {"float32": 7.0, "float16": 0.65, "bfloat16": 0.65}
"""Local rounding of one module in units of u, where none was recorded: the largest medians of right modules (linear
layers of 4864 inputs in float32, silu in bfloat16; measured; float16 taken like bfloat16)."""


class Recorded(NamedTuple):
    """A table of drifts, and what it is."""

    rows: np.ndarray | None
    """(order, error, scale, count), or None."""
    source: str
    """`recorded`, or what it stands in with, as a phrase."""
    least: float = 0.0
    """Smallest drift to be believed, in units of u."""


def recorded(trace: Trace, dtype: str) -> Recorded:
    """The best table that ``trace`` has for a port in ``dtype``."""
    rows = trace.table(f"{PREFIX}{dtype}")
    if rows is not None and len(rows):
        golden = trace.header.extra.get("floors", {}).get(dtype, {}).get("golden", "float64")
        if golden == "float64":
            return Recorded(rows, "recorded")
        return Recorded(
            rows, f"a floor against {golden}, since the reference does not run in float64"
        )
    for other in sorted(
        _others(trace, dtype), key=lambda name: (name in _SHORT) != (dtype in _SHORT)
    ):
        rows = trace.table(f"{PREFIX}{other}")
        if rows is not None and len(rows):
            scaled = rows.copy()
            scaled["error"] *= unit_roundoff(dtype) / unit_roundoff(other) * _change(other, dtype)
            least = 0.0 if dtype in _SHORT else CONSTANT["float32"]
            source = f"no floor recorded for {dtype}: that of {other}, scaled"
            return Recorded(scaled, source, least)
    return Recorded(None, "")


def _others(trace: Trace, dtype: str) -> list[str]:
    names = [name.removeprefix(PREFIX) for name in trace.tables if name.startswith(PREFIX)]
    return [n for n in names if n != dtype and n in CONSTANT and dtype in CONSTANT]


def _change(one: str, other: str) -> float:
    """Drift in units of u of the dtype ``other`` over that of ``one``."""
    if (one in _SHORT) == (other in _SHORT):
        return 1.0
    return NARROWING if other in _SHORT else WIDENING
