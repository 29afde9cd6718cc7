"""What a module's own code hands on, to its children and as its result: where a zoom begins to look."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from firstdiff.diff.inside.place import parent

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from firstdiff.diff.row import Row
    from firstdiff.traces import Trace
    from firstdiff.traces.schema import Activation


@dataclass(frozen=True)
class Handed:
    """A value that a module's own code hands to a child, or returns, on both sides."""

    reference: Activation
    """The reference's."""
    port: Activation
    """The port's own, before a right value was put in its place."""
    name: str
    """`o_proj input`."""
    healed: bool = False
    """Whether a difference here has no effect on what follows."""


def handed_on(name: str, rows: Sequence[Row], ours: Trace, own: Trace) -> Iterator[Handed]:
    """What the module ``name`` hands on, in execution order; ``own`` is the port's run on right inputs."""
    there = {a.key: a for a in own.activations}
    here = {a.key: a for a in ours.activations}
    for row in rows:
        if row.pair is None or row.duplicate_of is not None:
            continue
        given = row.key.site == "input" and row.name != name and parent(row.name) == name
        if not (given or (row.name == name and row.key.site == "output")):
            continue
        mine, value = here.get(row.pair.reference.key), there.get(row.pair.port.key)
        if mine is not None and value is not None:
            child = row.name.removeprefix(f"{name}.") if name else row.name
            label = f"{child} {row.label}" if given else f"its {row.label}"
            yield Handed(mine, value, label, bool(row.healed))
