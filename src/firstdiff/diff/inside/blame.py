"""Which function inside a module is the first that turns right values into one that the other side lacks.

The module's inputs and the results of its children are right (planted), so the first such function is the fault, and
whatever comes after it follows from it. A value that the other side merely does not compute (a scale applied earlier,
a fused projection) is no fault: what comes of it exists there again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from firstdiff.diff.inside.calls import FunctionCall, walk
from firstdiff.diff.inside.shapes import are_repeated, squeezed

if TYPE_CHECKING:
    from firstdiff.diff.inside.values import Values
    from firstdiff.traces import Trace
    from firstdiff.traces.schema import Activation

_LIKE = 0.5
"""Share of common arguments from which two calls are each other's counterpart."""


@dataclass(frozen=True)
class Blame:
    """A function whose own code is wrong."""

    call: FunctionCall | None
    """The call; None for the code of the module itself."""
    value: Activation
    """The first value of it that the other side lacks."""


@dataclass(frozen=True)
class Half:
    """One side of a module."""

    trace: Trace
    """Where its values are."""
    calls: tuple[FunctionCall, ...]
    """The functions that the module's own code calls."""
    values: Values
    """Every value of the module on this side."""
    ops: tuple[Activation, ...] = ()
    """Results of single operations, where they were recorded."""
    given: frozenset[int] = frozenset()
    """Checksums of what the module was given: made elsewhere, so no fault of its own code."""


def blame(own: Half, other: Half, result: Activation) -> Blame:
    """What makes ``result``, a wrong value that leaves the module's own code (to a child, or as its result)."""
    calls, owner = own.calls, None
    while True:
        before = [c for c in calls if c.first < result.order and not _takes(c, result)]
        around = before.pop() if before and before[-1].last > result.order else None
        found = _first(before, owner, own, other)
        if found is not None or around is None:
            return found or _hand_over(before, owner, result)
        calls, owner = around.children, around


def counterpart(call: FunctionCall, own: Half, other: Half) -> FunctionCall | None:
    """The call on the other side that takes the same arguments, in the same shapes; None when there is none."""

    def share(there: FunctionCall) -> float:
        pairs = [(a, b) for a in call.tensors for b in there.tensors]
        common = {a.order for a, b in pairs if other.values.same(own.trace, a, b)}
        return len(common) / max(len(call.tensors), len(there.tensors), 1)

    every = list(walk(other.calls))
    best = max(every, key=share, default=None)
    return best if best is not None and share(best) >= _LIKE else None


def _first(
    calls: Sequence[FunctionCall], owner: FunctionCall | None, own: Half, other: Half
) -> Blame | None:
    """The first of ``calls``, or of those inside them, or ``owner`` between them, that is wrong."""
    for number, call in enumerate(calls):
        lacking = [a for a in call.outputs if not other.values.has(own.trace, a)]
        wrong = _wrong_argument(call, own, other)
        if wrong is not None and (lacking or not call.outputs):
            return _hand_over(calls[:number], owner, wrong)
        if lacking and not _heals(lacking, calls[number + 1 :], own, other):
            inner = _first(call.children, call, own, other)
            if inner is None or _kept_back(call, inner.call, own, other):
                return Blame(call, lacking[0])
            return inner
    return None


def _kept_back(call: FunctionCall, inner: FunctionCall | None, own: Half, other: Half) -> bool:
    """Whether ``call`` returns what ``inner`` makes, without giving it a tensor that the other side works with."""
    if inner is None or inner is call:
        return False
    returned = all(any(_is_same(a, b) for b in inner.outputs) for a in call.outputs)
    kept = [a for a in call.tensors if not any(_is_same(a, b) for b in inner.tensors)]
    taken = [b for there in walk(other.calls) for b in there.tensors]
    return returned and any(other.values.same(own.trace, a, b) for a in kept for b in taken)


def _hand_over(
    before: Sequence[FunctionCall], owner: FunctionCall | None, value: Activation
) -> Blame:
    """``owner`` hands on a wrong ``value``: its own code made it, or the last function that returned just that."""
    for call in reversed(before):
        if any(_is_same(a, value) for a in call.outputs):
            return Blame(call, value)
    return Blame(owner, value)


def _takes(call: FunctionCall, value: Activation) -> bool:
    """Whether ``value`` is an argument of ``call``."""
    return any(a.order == value.order for a in call.inputs)


def _is_same(one: Activation, other: Activation) -> bool:
    """Whether both hold the same bytes."""
    if one.digest is None or other.digest is None or one.dtype != other.dtype:
        return False
    return one.digest.checksum == other.digest.checksum


def _heals(
    lacking: Sequence[Activation], later: Sequence[FunctionCall], own: Half, other: Half
) -> bool:
    """Whether a later function makes of these values one that the other side has too."""
    for call in later:
        takes = any(_is_same(a, b) for a in call.inputs for b in lacking)
        if takes and call.outputs and all(other.values.has(own.trace, a) for a in call.outputs):
            return True
    return False


def _wrong_argument(call: FunctionCall, own: Half, other: Half) -> Activation | None:
    """The first argument of ``call`` that is wrong: absent on the other side, or given to its namesake there in
    another place or with another number."""
    namesakes = [
        c for c in walk(other.calls) if c.name.rpartition(".")[2] == call.name.rpartition(".")[2]
    ]
    for place, argument in enumerate(call.tensors):
        made = argument.digest is None or argument.digest.checksum not in own.given
        if other.ops and made and not other.values.has(own.trace, argument):
            return argument
        roles = [role for c in namesakes for role in _roles(c, argument, place)]
        if roles and not any(other.values.same(own.trace, argument, role) for role in roles):
            return argument
    for argument in call.inputs:
        if not argument.shape and argument.dtype.startswith("float"):
            numbers = [
                float(other.trace.values(b))
                for c in namesakes
                for b in c.inputs
                if b.key.leaf == argument.key.leaf and not b.shape
            ]
            value = float(own.trace.values(argument))
            if numbers and all(abs(value - n) > 1e-5 * abs(n) for n in numbers):
                return argument
    return None


def _roles(call: FunctionCall, argument: Activation, place: int) -> list[Activation]:
    """The argument of a function of the same name that ``argument`` stands for: by name, else by place."""
    named = [a for a in call.tensors if a.key.leaf == argument.key.leaf]
    found = named or list(call.tensors[place : place + 1])
    size = squeezed(argument.shape)
    return [a for a in found if squeezed(a.shape) == size or are_repeated(a.shape, argument.shape)]
