"""One module in one trace, with what happened below the level of modules in its own code."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from firstdiff.diff.inside.place import parent
from firstdiff.traces.schema import FUNCTION_MARK

if TYPE_CHECKING:
    from collections.abc import Iterator

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
