"""One module in one trace, with what happened below the level of modules in its own code."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from firstdiff.diff.inside.place import parent

if TYPE_CHECKING:
    from firstdiff.traces import Trace
    from firstdiff.traces.schema import Activation


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
        if not has_plain_functions(self.trace):
            return tuple(a for a in self.trace.deeper if a.key.path in self.paths)
        return tuple(a for a in self.trace.deeper if self._holds(a.key.path))

    def _holds(self, path: str) -> bool:
        """Whether ``path`` is the module or lies in it: what a plain function calls lies below it."""
        return path in self.paths or any(path.startswith(f"{p}." if p else "") for p in self.paths)

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
        return dict(self.trace.header.extra.get("functions", {}))

    @property
    def own_code(self) -> str:
        """`Qwen2Attention.forward`: the function that calls those inside."""
        for a in self.trace.activations:
            if a.key.path == self.paths[-1] and a.class_name:
                return f"{a.class_name}.{a.key.method}"
        callers = [a.class_name for a in self.inner if a.class_name]
        return callers[0] if callers else self.paths[-1] or "the model"


def has_plain_functions(trace: Trace) -> bool:
    """Whether ``trace`` is of a model without modules, whose functions are recorded like modules."""
    return "functions" in trace.header.front_end.split("+")
