"""Calls as a trace shows them: what one call of a module or a function received and returned, and how calls nest."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from firstdiff.traces.schema import Activation, Site

Role = tuple[str, str, int]
"""Path with `*` for each index, method, and call index: what the same call of every layer has in common."""


@dataclass(frozen=True, eq=False)
class Call:
    """One call; two calls are the same only if they are one object."""

    path: str
    """Dotted path of the module or function."""
    method: str
    """Method called."""
    number: int
    """Call index."""
    step: int
    """Forward pass."""
    activations: tuple[Activation, ...]
    """What was recorded of it, in execution order; never empty."""

    @property
    def start(self) -> int:
        """Order of its first activation."""
        return self.activations[0].order

    @property
    def end(self) -> int:
        """Order of its last activation."""
        return self.activations[-1].order

    @property
    def class_name(self) -> str:
        """Class of the module; empty for a function."""
        return self.activations[0].class_name

    @cached_property
    def indices(self) -> tuple[int, ...]:
        """Indices in its path: `layers.3.experts.1` has (3, 1)."""
        return tuple(int(part) for part in self.path.split(".") if part.isdigit())

    @cached_property
    def role(self) -> Role:
        """What the same call of every layer has in common."""
        parts = ("*" if part.isdigit() else part for part in self.path.split("."))
        return ".".join(parts), self.method, self.number

    def at(self, site: Site) -> tuple[Activation, ...]:
        """Its inputs, or its outputs."""
        return tuple(a for a in self.activations if a.key.site == site)

    def encloses(self, other: Call) -> bool:
        """Whether ``other`` ran inside this call, by path and by order."""
        prefix = f"{self.path}." if self.path else ""
        return (
            other is not self
            and self.step == other.step
            and other.path.startswith(prefix)
            and self.start <= other.start
            and other.end <= self.end
        )


def calls_of(activations: Iterable[Activation]) -> tuple[Call, ...]:
    """The calls that ``activations`` belong to, by the order of their first one: an outer call before inner ones."""
    groups: dict[tuple[str, str, int, int], list[Activation]] = {}
    for a in activations:
        groups.setdefault((a.key.path, a.key.method, a.key.call, a.key.step), []).append(a)
    made = [
        Call(*key, tuple(sorted(found, key=lambda a: a.order))) for key, found in groups.items()
    ]
    return tuple(sorted(made, key=lambda call: (call.start, -call.end, len(call.path))))


def enclosing(calls: Sequence[Call]) -> dict[Call, tuple[Call, ...]]:
    """The calls around each of ``calls`` (as `calls_of` orders them), innermost first."""
    found: dict[Call, tuple[Call, ...]] = {}
    open_calls: list[Call] = []
    for call in calls:
        open_calls = [outer for outer in open_calls if outer.end >= call.start]
        found[call] = tuple(outer for outer in reversed(open_calls) if outer.encloses(call))
        open_calls.append(call)
    return found
