"""Examining one module of two traces that look inside it: which function is wrong, on both sides."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from firstdiff.diff.inside.answer import InsideRow, SideName, Spot, Zoom, short
from firstdiff.diff.inside.blame import Blame, Half, blame, counterpart
from firstdiff.diff.inside.calls import FunctionCall, calls_of, walk
from firstdiff.diff.inside.shapes import squeezed
from firstdiff.diff.inside.values import Values
from firstdiff.traces.schema import FUNCTION_MARK

if TYPE_CHECKING:
    from collections.abc import Sequence

    from firstdiff.diff.inside.allowance import Allowance
    from firstdiff.diff.inside.handed import Handed
    from firstdiff.diff.inside.scope import Scope
    from firstdiff.traces.schema import Activation


_UNLIKE = 0.5
"""Relative L2 of a difference that is no likeness, where no part is equal."""


def examine(reference: Scope, port: Scope, handed: Sequence[Handed], allowance: Allowance) -> Zoom:
    """Find the first wrong value that the module hands on, and the function that made it, on both sides.

    ``handed`` is in the reference's execution order. The port's values are those of a run with right inputs.
    """
    ours = _half("reference", reference, allowance)
    theirs = _half("port", port, allowance)
    wrong = next(
        (h for h in handed if not ours.values.same(port.trace, h.port, h.reference)
         and not _equal(ours, theirs, h)),
        None,
    )  # fmt: skip
    rows = (*_rows("reference", reference, ours, theirs), *_rows("port", port, theirs, ours))
    if wrong is None:
        return Zoom("", "", "", rows=rows)
    port_blame = blame(theirs, ours, wrong.port)
    found = counterpart(port_blame.call, theirs, ours) if port_blame.call is not None else None
    if found is not None:
        first = _lacking(found, ours, theirs)
        reference_blame = Blame(found, first or found.outputs[0])
    else:
        reference_blame = blame(ours, theirs, wrong.reference)
    spots = (
        _spot("reference", reference, reference_blame, ours, theirs, wrong),
        _spot("port", port, port_blame, theirs, ours, wrong),
    )
    tensor = bool(reference_blame.value.shape)
    made = theirs.values.before(wrong.port.order)
    computed = tensor and made.has(reference.trace, reference_blame.value)
    near = _nearest(reference_blame, reference, port, theirs, computed=computed)
    numbers = _numbers(reference_blame, port_blame, reference, port)
    return Zoom("", "", "", wrong.name, spots, near, computed=computed, numbers=numbers, rows=rows)


def _numbers(
    ours: Blame, theirs: Blame, reference: Scope, port: Scope
) -> tuple[float, float] | None:
    """Both values where they are plain numbers."""
    if ours.value.shape or theirs.value.shape:
        return None
    values = reference.trace.values(ours.value), port.trace.values(theirs.value)
    return float(values[0]), float(values[1])


def _half(side: SideName, scope: Scope, allowance: Allowance) -> Half:
    inner = scope.inner
    values = Values(side, scope.trace, (*scope.around, *inner), allowance)
    ops = tuple(a for a in inner if a.key.level == "op")
    given = frozenset(
        a.digest.checksum
        for a in scope.around
        if a.digest is not None and a.key.site == "input" and a.key.path in scope.paths
    )
    return Half(scope.trace, calls_of(inner), values, ops, given)


def _equal(ours: Half, theirs: Half, handed: Handed) -> bool:
    """Whether the two are equal in another shape or layout: heads split, a batch axis kept."""
    same_shape = squeezed(handed.reference.shape) == squeezed(handed.port.shape)
    if same_shape or handed.reference.place is None or handed.port.place is None:
        return False
    alone = Values("reference", ours.trace, (handed.reference,), ours.values.allowance)
    return alone.has(theirs.trace, handed.port)


def _lacking(call: FunctionCall, own: Half, other: Half) -> Activation | None:
    return next((a for a in call.outputs if not other.values.has(own.trace, a)), None)


def _spot(
    side: SideName, scope: Scope, found: Blame, own: Half, other: Half, wrong: Handed
) -> Spot:
    call = found.call
    definitions = scope.definitions
    name = call.name if call is not None else scope.own_code
    line = _line(found, name, own, other)
    if call is None:
        defined = definitions.get(f"{name}{FUNCTION_MARK}", "")
        return Spot(side, name, defined, line=line, value=_label(found, call, wrong))
    return Spot(
        side,
        name,
        definitions.get(call.method, ""),
        call.caller,
        ""
        if "@" in call.method
        else call.source,  # plain functions: the line that calls is not known
        line,
        _label(found, call, wrong),
    )


def _line(found: Blame, name: str, own: Half, other: Half) -> str:
    """Where in the function the first value arises that the other side lacks and that no later operation heals."""
    if found.value.key.level == "function" and found.value.key.site == "input":
        return found.value.source if found.value.class_name == name else ""
    start, end = (found.call.first, found.call.last) if found.call else (0, found.value.order)
    inside = [a for a in own.ops if a.class_name == name and start <= a.order <= end]
    last = ""
    for op in reversed(inside):
        if other.values.has(own.trace, op):
            break
        last = op.source
    return last


def _label(found: Blame, call: FunctionCall | None, wrong: Handed) -> str:
    """`q`, `the result`, `argument scores of softmax`, `o_proj input`."""
    key = found.value.key
    if key.level == "module":
        return wrong.name
    if key.site == "input":
        return f"argument {key.leaf} of {key.method.removesuffix(FUNCTION_MARK)}"
    if call is not None and key.leaf.isdigit():
        same = call.tensors[int(key.leaf) : int(key.leaf) + 1]
        if same and same[0].shape == found.value.shape:
            return same[0].key.leaf
        return f"result {key.leaf}"
    return "the result"


def _nearest(found: Blame, reference: Scope, port: Scope, theirs: Half, *, computed: bool) -> str:
    """`apply_rotary_emb (my_port.py:121), equal at position 0 only`: among the results of the port's functions."""
    if not found.value.shape:
        return ""
    calls = {a.order: call for call in walk(theirs.calls) for a in call.outputs}
    results = [a for a in port.inner if a.order in calls]
    values = Values("port", port.trace, results, theirs.values.allowance)
    near = values.nearest(reference.trace, found.value)
    if near is None:
        return ""
    call = calls[near.value.first.order]
    place = short(port.definitions.get(call.method, call.source))
    equal = near.laid.error <= values.limit(found.value)
    if computed:
        return f"{call.name} ({place})" if equal else ""
    if not near.likeness.words and near.laid.error > _UNLIKE:
        return ""
    words = near.likeness.words or f"relative L2 of the difference {near.laid.error:.2g}"
    if equal:
        words = "which holds the same numbers in another order"
    return f"{call.name} ({place}), {words}"


def _rows(side: SideName, scope: Scope, own: Half, other: Half) -> tuple[InsideRow, ...]:
    found = []
    for a in scope.inner:
        verdict: Literal["equal", "no equal", "not compared"] = "not compared"
        if a.shape and a.place is not None:
            verdict = "equal" if other.values.has(own.trace, a) else "no equal"
        label = f"{a.key.site} {a.key.leaf}".rstrip()
        name = a.key.method.removesuffix(FUNCTION_MARK).partition("@")[0]
        found.append(
            InsideRow(
                side, a.order, a.key.level, name, label, a.shape, a.dtype, verdict, a.source,
                a.class_name,
            )
        )  # fmt: skip
    return tuple(found)
