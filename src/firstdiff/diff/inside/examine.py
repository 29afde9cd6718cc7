"""Examining one module of two traces that look inside it: which function is wrong, on both sides."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from firstdiff.diff.inside.answer import InsideRow, SideName, Spot, Zoom, short
from firstdiff.diff.inside.blame import Blame, Half, blame, counterpart
from firstdiff.diff.inside.calls import FunctionCall, calls_of, walk
from firstdiff.diff.inside.values import Values
from firstdiff.traces.schema import FUNCTION_MARK

if TYPE_CHECKING:
    import numpy as np

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


@dataclass(frozen=True)
class Scope:
    """One module in one trace."""

    trace: Trace
    """The trace."""
    paths: tuple[str, ...]
    """Its paths: several for a model inside a wrapper."""

    @property
    def inner(self) -> tuple[Activation, ...]:
        """What happened in its own code, functions and operations."""
        found = [a for a in self.trace.deeper if a.key.path in self.paths]
        if "functions" in self.trace.header.front_end.split("+"):
            found = sorted([*found, *self._functions()], key=lambda a: a.order)
        return tuple(found)

    def _functions(self) -> Iterator[Activation]:
        """Of a port of plain functions: what is recorded as a module below this one is a function that it calls."""
        for a in (*self.trace.activations, *self.trace.deeper):
            own = next((p for p in self.paths if a.key.path.startswith(f"{p}." if p else "")), None)
            names = [part for part in a.key.path.split(".") if not part.isdigit()]
            if own is None or not names or a.key.path in self.paths:
                continue
            key = replace(a.key, path=own)
            if a.key.level == "module":
                key = replace(key, method=f"{names[-1]}@{a.key.path}{FUNCTION_MARK}")
            yield replace(a, key=key, class_name=a.class_name or (names[-2:-1] or [""])[0])

    @property
    def around(self) -> tuple[Activation, ...]:
        """What it and the modules directly below take and give."""
        return tuple(a for a in self.trace.activations if self.is_near(a.key.path))

    def is_near(self, path: str) -> bool:
        """Whether ``path`` is the module, or one directly below."""
        return any(path == own or parent(path) == own for own in self.paths)

    @property
    def definitions(self) -> dict[str, str]:
        """`file:line` of the definition of each function, by `Key.method`."""
        found: dict[str, str] = dict(self.trace.header.extra.get("functions", {}))
        if not found:  # plain functions: an argument is tapped where the function begins
            found = {a.key.method: a.source for a in self.inner if a.key.site == "input"}
        return found

    @property
    def own_code(self) -> str:
        """`Qwen2Attention.forward`: the function that calls those inside."""
        for a in self.trace.activations:
            if a.key.path == self.paths[-1] and a.class_name:
                return f"{a.class_name}.{a.key.method}"
        callers = [a.class_name for a in self.inner if a.class_name]
        return callers[0] if callers else self.paths[-1] or "the model"


def examine(
    reference: Scope,
    port: Scope,
    handed: Sequence[Handed],
    tolerance: float,
    padding: np.ndarray | None = None,
) -> Zoom:
    """Find the first wrong value that the module hands on, and the function that made it, on both sides.

    ``handed`` is in the reference's execution order. The port's values are those of a run with right inputs.
    """
    ours = _half(reference, tolerance, padding)
    theirs = _half(port, tolerance, padding)
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
    computed = theirs.values.has(reference.trace, reference_blame.value)
    near = _nearest(reference_blame, reference, port, theirs, computed=computed)
    return Zoom("", "", "", tap=wrong.name, spots=spots, nearest=near, computed=computed, rows=rows)


def _half(scope: Scope, tolerance: float, padding: np.ndarray | None) -> Half:
    inner = scope.inner
    values = Values(scope.trace, (*scope.around, *inner), tolerance, padding)
    ops = tuple(a for a in inner if a.key.level == "op")
    given = frozenset(
        a.digest.checksum
        for a in scope.around
        if a.digest is not None and a.key.site == "input" and a.key.path in scope.paths
    )
    return Half(scope.trace, calls_of(inner), values, ops, given)


def _equal(ours: Half, theirs: Half, handed: Handed) -> bool:
    """Whether the two are equal in another shape or layout: heads split, a batch axis kept."""
    same_shape = [n for n in handed.reference.shape if n != 1] == [
        n for n in handed.port.shape if n != 1
    ]
    if same_shape or handed.reference.place is None or handed.port.place is None:
        return False
    alone = Values(ours.trace, (handed.reference,), ours.values.tolerance, ours.values.padding)
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
    plain = "@" in call.method  # plain functions are recorded without the line that calls them
    return Spot(
        side,
        name,
        definitions.get(call.method, ""),
        call.caller,
        "" if plain else call.source,
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
    values = Values(port.trace, results, theirs.values.tolerance, theirs.values.padding)
    near = values.nearest(reference.trace, found.value)
    if near is None:
        return ""
    call = calls[near.value.first.order]
    place = short(port.definitions.get(call.method, call.source))
    if computed:
        return f"{call.name} ({place})" if near.laid.error <= theirs.values.tolerance else ""
    words = near.likeness.words or f"relative L2 of the difference {near.laid.error:.2g}"
    if near.laid.error <= theirs.values.tolerance:
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


def parent(path: str) -> str | None:
    """The module around ``path``; a member of a list lies directly in what holds the list."""
    if not path:
        return None
    around, _, last = path.rpartition(".")
    return around.rpartition(".")[0] if last.isdigit() else around
