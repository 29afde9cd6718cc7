"""Matches in words: what was done to the values, and which slice of what they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from firstdiff.diff.weights.approximate import name_factor

if TYPE_CHECKING:
    from firstdiff.diff.weights.match import Fixed, Match
    from firstdiff.diff.weights.verdict import Finding


def transform(match: Match) -> str:
    """What turns the reference's values into the port's, in words; empty for nothing."""
    parts = [match.relation if match.relation != "equal" else ""]
    if match.port_fixed:
        parts.append("slice " + ", ".join(f"{i} of axis {a}" for a, i in match.port_fixed))
    parts += [match.port_part, match.order]
    if match.scale != 1.0:
        parts.append(f"times {name_factor(match.scale)}")
    if match.offset:
        parts.append(f"{'plus' if match.offset > 0 else 'minus'} {abs(match.offset):g}")
    return ", ".join(part for part in parts if part)


def finding_of(match: Match) -> Finding:
    """The finding of a match with which nothing is wrong."""
    if not match.certain:
        return "constant"
    if match.turn == "turned":
        return "transposed"
    return "equal" if transform(match) == "" else "arranged"


def indices(fixed: Fixed) -> str:
    """`[3]`, `[:, 3]`: the slice, as numpy writes it."""
    return "".join(f"[{':, ' * axis}{index}]" for axis, index in fixed)
