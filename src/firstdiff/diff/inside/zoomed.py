"""One module of two traces made ready to be examined: its paths, what rounding allows there, and what to say beside."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from firstdiff.diff.floor import coarser, run_dtype
from firstdiff.diff.inside.allowance import Allowance
from firstdiff.diff.inside.examine import examine
from firstdiff.diff.inside.handed import handed_on
from firstdiff.diff.inside.scope import Scope
from firstdiff.diff.local import recorded_floors
from firstdiff.traces.dtypes import unit_roundoff
from firstdiff.traces.padding import padding_mask

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from firstdiff.diff.inside.answer import Zoom
    from firstdiff.diff.inside.place import Sides
    from firstdiff.diff.local import FloorOf
    from firstdiff.diff.row import Row
    from firstdiff.traces import Trace


def zoomed(
    name: str,
    sides: Sides,
    rows: Sequence[Row],
    ours: Trace,
    own: Trace,
    floors: FloorOf | None = None,
) -> Zoom:
    """Examine the module ``name``, at the paths ``sides``.

    ``ours`` is the reference's trace, looking into the module; ``own`` the port's, on right inputs; ``rows`` pairs
    them. ``floors`` tell what rounding does at the reference's values; None takes those in its trace.
    """
    dtype = coarser(run_dtype(ours.activations), run_dtype(own.activations))
    if floors is None:
        alike = unit_roundoff(run_dtype(ours.activations)) >= unit_roundoff(dtype)
        floors = recorded_floors(ours, dtype, rounded_alike=alike)
    padding = padding_mask({key: ours.input_values(key) for key in ours.inputs})
    allowance = Allowance(dtype, floors, padding)
    reference, port = Scope(ours, sides[0]), Scope(own, sides[1])
    handed = list(handed_on(name, rows, ours, own))
    notes = list(_notes(reference, port))
    result = examine(reference, port, [h for h in handed if not h.healed], allowance)
    if not result.spots and any(h.healed for h in handed):
        result = examine(reference, port, handed, allowance)
        if result.spots:
            notes.append("what differs has no effect on what follows")
    return replace(result, module=name, notes=tuple(notes))


def _notes(reference: Scope, port: Scope) -> Iterator[str]:
    for side, scope in (("reference", reference), ("port", port)):
        if not scope.inner:
            yield f"the {side} runs no function and no operation of its own in this module"
    if not any(a.key.level == "op" for a in reference.inner):
        yield (
            "the reference's trace holds functions, no operations: a value that it computes between two of them "
            "cannot be matched; capture it with --level op for more"
        )
