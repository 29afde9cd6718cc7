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
        if not has_plain_functions(self.trace):
            return tuple(a for a in self.trace.deeper if a.key.path in self.paths)
        ops = [a for a in self.trace.deeper if a.key.level == "op" and a.key.path in self.paths]
        found = [*ops, *self._functions(), *self._numbers()]
        return tuple(sorted(found, key=lambda a: a.order))

    def _functions(self) -> Iterator[Activation]:
        """Without modules: what is recorded as a module below this one is a function that it calls."""
        for a in self.trace.activations:
            own = next((p for p in self.paths if a.key.path.startswith(f"{p}." if p else "")), None)
            names = [part for part in a.key.path.split(".") if not part.isdigit()]
            if own is None or not names or a.key.path in self.paths:
                continue
            method = f"{names[-1]}@{a.key.path}{FUNCTION_MARK}"
            key = replace(a.key, path=own, method=method)
            yield replace(a, key=key, class_name=a.class_name or (names[-2:-1] or [""])[0])

    def _numbers(self) -> Iterator[Activation]:
        """Without modules: the plain numbers that the functions called here take and return."""
        for a in self.trace.deeper:
            if a.key.level == "function" and not a.shape and a.key.path in self.paths:
                name = a.key.method.removesuffix(FUNCTION_MARK)
                path = f"{a.key.path}.{name}".lstrip(".")
                yield replace(a, key=replace(a.key, method=f"{name}@{path}{FUNCTION_MARK}"))

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
        if has_plain_functions(self.trace):  # an argument is tapped where the function begins
            begins = {
                a.key.method: a.source for a in self.inner if a.key.site == "input" and a.shape
            }
            named = {a.key.method: found.get(_plain(a.key.method), "") for a in self.inner}
            found = {**found, **begins, **{m: place for m, place in named.items() if place}}
        return found

    @property
    def own_code(self) -> str:
        """`Qwen2Attention.forward`: the function that calls those inside."""
        callers = [a.class_name for a in self.inner if a.class_name]
        for a in self.trace.activations:
            if a.key.path == self.paths[-1] and a.class_name:
                keras = f"{a.class_name}.call"
                return keras if keras in callers else f"{a.class_name}.{a.key.method}"
        return callers[0] if callers else self.paths[-1] or "the model"


def has_plain_functions(trace: Trace) -> bool:
    """Whether ``trace`` is of a model without modules, whose functions are recorded like modules."""
    return "functions" in trace.header.front_end.split("+")


def _plain(method: str) -> str:
    """`rotate_half()` of `rotate_half@forward.rotate_half()`."""
    return f"{method.partition('@')[0]}{FUNCTION_MARK}" if "@" in method else method
