"""Arguments and results taken apart into named leaves.

Apart, because every framework nests them the same way.

Plain Python: a tensor of whatever framework is a leaf because it is no container.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass

_PLAIN = (str, bytes, bool, int, float, complex)


def leaves(value: object, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Each leaf of ``value`` with its dotted name, in order: ``""`` or ``prefix`` for a bare leaf.

    Mappings give keys, named tuples and dataclasses field names, lists and tuples positions. None
    and plain Python scalars and strings are left out.
    """
    if value is None or isinstance(value, _PLAIN):
        return
    members = _members(value)
    if members is None:
        yield prefix, value
        return
    for name, member in members:
        yield from leaves(member, f"{prefix}.{name}" if prefix else name)


def _members(value: object) -> list[tuple[str, object]] | None:
    """The named members of a container, or None when ``value`` is not one."""
    if isinstance(value, Mapping):
        return [(str(key), member) for key, member in value.items()]
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return [(str(name), member) for name, member in zip(value._fields, value, strict=True)]
    if isinstance(value, list | tuple):
        return [(str(index), member) for index, member in enumerate(value)]
    if is_dataclass(value) and not isinstance(value, type):
        return [(field.name, getattr(value, field.name)) for field in fields(value)]
    return None


@dataclass(frozen=True)
class Parameters:
    """Parameter names of a callable, enough to name the arguments of one call."""

    positional: tuple[str, ...]
    """Names that positional arguments bind to, in order, without `self`."""
    rest: str
    """Name of the variadic positional parameter; surplus positional arguments are its members."""

    @classmethod
    def of(cls, function: Callable[..., object]) -> Parameters:
        """Read them from the signature, through wrappers; a callable without one binds everything
        to `args`.
        """
        try:
            signature = inspect.signature(function)
        except (TypeError, ValueError):
            return cls((), "args")
        kinds = inspect.Parameter
        named = [
            name
            for name, parameter in signature.parameters.items()
            if parameter.kind in (kinds.POSITIONAL_ONLY, kinds.POSITIONAL_OR_KEYWORD)
        ]
        rest = [n for n, p in signature.parameters.items() if p.kind is kinds.VAR_POSITIONAL]
        return cls(tuple(named), rest[0] if rest else "args")

    def bind(
        self, args: Sequence[object], kwargs: Mapping[str, object]
    ) -> Iterator[tuple[str, object]]:
        """Each argument of one call with its name: positional ones first, then keywords as they
        were given.
        """
        yield from zip(self.positional, args, strict=False)
        for index, value in enumerate(args[len(self.positional) :]):
            yield f"{self.rest}.{index}", value
        yield from kwargs.items()
