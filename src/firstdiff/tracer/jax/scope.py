"""What is known of one sub-program while a traced program is read: where its variables come
from."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from jax.extend.core import Literal

from firstdiff.tracer.jax import compat
from firstdiff.tracer.jax.plan import Slot, Stacked

if TYPE_CHECKING:
    from firstdiff.tracer.jax.layered import Origin
    from firstdiff.tracer.jax.plan import Address


@dataclass(frozen=True)
class Frame:
    """An enclosing transformation that adds a leading axis."""

    axes: tuple[tuple[str, int], ...] = ()
    """Manual mesh axes with sizes; empty for a loop."""
    checked: bool = True
    """Whether the `shard_map` knows over which axes a value varies."""


@dataclass
class Scope:
    """What is known of one sub-program while it is read."""

    address: Address
    frames: tuple[Frame, ...]
    homes: dict[Any, Slot] = field(default_factory=dict)
    """Home of a variable that came from elsewhere, or that a tap returned."""
    origins: dict[Any, Origin] = field(default_factory=dict)
    """What each variable depends on."""
    stack: str = ""
    """Name scopes around the sub-program."""
    place: tuple[str, str] = ("", "")
    """Function and `file:line` of the user's code that calls a library's sub-program; empty in the user's own."""

    def home(self, var: Any) -> Slot:
        """Where ``var`` is at home."""
        return self.homes.get(var) or Slot(self.address, var, stacked(self.frames, var))

    def origin(self, atom: Any) -> Origin:
        """What ``atom`` depends on."""
        return "constant" if isinstance(atom, Literal) else self.origins.get(atom, "input")


def stacked(frames: Iterable[Frame], var: Any) -> tuple[Stacked, ...]:
    """Leading axes that ``var`` gets on its way out of ``frames``: none where all shards hold the
    same."""
    found = []
    for frame in frames:
        if not frame.axes:
            found.append(Stacked())
            continue
        varying = compat.varying_axes_of(var.aval) if frame.checked else dict(frame.axes).keys()
        axes = [(name, size) for name, size in frame.axes if name in varying]
        if axes:
            count = math.prod(size for _, size in axes)
            found.append(Stacked(count, tuple(name for name, _ in axes)))
    return tuple(found)
