"""The function calls inside a module, nested as they ran, from what a trace holds below the level of modules."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from firstdiff.traces.schema import FUNCTION_MARK

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from firstdiff.traces.schema import Activation


@dataclass(frozen=True)
class FunctionCall:
    """One call of one function."""

    method: str
    """`Key.method`: `rotate_half()`."""
    caller: str
    """Name of the function that called it."""
    source: str
    """`file:line` of the call."""
    inputs: tuple[Activation, ...]
    """What was recorded of its arguments, in their order."""
    outputs: tuple[Activation, ...]
    """What it returned."""
    children: tuple[FunctionCall, ...] = ()
    """The calls that ran inside it, in order."""

    @property
    def name(self) -> str:
        """`rotate_half`."""
        return self.method.removesuffix(FUNCTION_MARK).partition("@")[0]

    @property
    def first(self) -> int:
        """Order of its first activation."""
        return min(a.order for a in (*self.inputs, *self.outputs))

    @property
    def last(self) -> int:
        """Order of its last activation."""
        return max(a.order for a in (*self.inputs, *self.outputs))

    @property
    def tensors(self) -> tuple[Activation, ...]:
        """Its arguments that are no plain numbers."""
        return tuple(a for a in self.inputs if a.shape)


def calls_of(activations: Iterable[Activation]) -> tuple[FunctionCall, ...]:
    """The outermost calls among ``activations`` of the function level, in order, each with those inside it."""
    groups: dict[tuple[str, str, int, int], list[Activation]] = {}
    for a in activations:
        if a.key.level == "function":
            groups.setdefault((a.key.path, a.key.method, a.key.call, a.key.step), []).append(a)
    return _nested(sorted(map(_call, groups.values()), key=lambda call: (call.first, -call.last)))


def _call(found: list[Activation]) -> FunctionCall:
    ordered = sorted(found, key=lambda a: a.order)
    return FunctionCall(
        ordered[0].key.method,
        ordered[0].class_name,
        ordered[0].source,
        tuple(a for a in ordered if a.key.site == "input"),
        tuple(a for a in ordered if a.key.site == "output"),
    )


def _nested(ordered: Sequence[FunctionCall]) -> tuple[FunctionCall, ...]:
    """``ordered``, by their beginnings, as a tree: a call lies in the one that ends after it."""
    found: list[FunctionCall] = []
    rest = list(ordered)
    while rest:
        call, *rest = rest
        inside = [other for other in rest if other.last <= call.last]
        rest = [other for other in rest if other.last > call.last]
        found.append(replace(call, children=_nested(inside)))
    return tuple(found)


def walk(calls: Iterable[FunctionCall]) -> Iterator[FunctionCall]:
    """Every call, an outer one before those inside it."""
    for call in calls:
        yield call
        yield from walk(call.children)
