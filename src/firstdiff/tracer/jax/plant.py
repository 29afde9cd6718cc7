"""Putting activations into a traced function: the program goes on with given values in place of its
own.

The same walk as reaping. What the program computed itself, from planted values upstream, is still
recorded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from firstdiff.tracer.jax.replacement import Replacement
from firstdiff.traces.errors import OptionError

if TYPE_CHECKING:
    from firstdiff.tracer.jax.plan import Address, Stacked, Tap
    from firstdiff.tracer.jax.schedule import Occurrence
    from firstdiff.tracer.jax.walk import Put
    from firstdiff.traces.schema import Key


@dataclass(frozen=True)
class Planting:
    """Values to put in, arranged by tap."""

    put: Put
    """Values by address: those that are given, whatever the number of iterations."""
    cuts: dict[Address, Any]
    """How values at taps inside a `shard_map` are cut."""
    planted: tuple[Key, ...]
    """What will be put in."""
    refused: dict[Key, str]
    """What cannot be, and why."""


@dataclass(frozen=True)
class Prefix:
    """A value for the first places of every axis that has the length of a cache; the places behind it are filled."""

    value: np.ndarray
    """What is known."""
    capacity: int
    """Length of the cache."""

    def fitted(self, shape: tuple[int, ...]) -> np.ndarray:
        """In ``shape`` where that is possible, else as it is: masked, where it is a mask, otherwise zero."""
        if len(shape) != self.value.ndim:
            return self.value
        pairs = list(zip(self.value.shape, shape, strict=True))
        if any(own != size and size != self.capacity for own, size in pairs):
            return self.value
        lowest = min(self.value.min(initial=0), 0)  # an additive mask hides by its lowest number
        return np.pad(self.value, [(0, size - own) for own, size in pairs], constant_values=lowest)


def plan_planting(
    occurrences: Sequence[Occurrence], values: Mapping[Key, Any], max_iterations: int | None
) -> Planting:
    """Arrange ``values`` for one run whose activations are ``occurrences``.

    A value has the shape of the activation of that key as it is recorded, and any dtype that casts
    to it. `OptionError` for another shape. Keys without a tap, or whose value the model holds on
    to, are refused.
    """
    found = {occurrence.key: occurrence for occurrence in occurrences}
    refused = {key: "no tap of that name fired" for key in values if key not in found}
    chosen: dict[Address, list[Occurrence]] = {}
    for key in values:
        if key in refused:
            continue
        reason = _refusal(found[key], max_iterations)
        if reason:
            refused[key] = reason
        else:
            chosen.setdefault(found[key].tap.address, []).append(found[key])
    put = {address: _arranged(group, values, max_iterations) for address, group in chosen.items()}
    cuts = {address: _cut(group[0].tap) for address, group in chosen.items()}
    planted = tuple(key for key in values if key not in refused)
    return Planting(put, cuts, planted, refused)


def _refusal(occurrence: Occurrence, max_iterations: int | None) -> str:
    if not occurrence.tap.key.plantable:
        return "the model goes on with its own value here (a constant, or a container that it may change)"
    if len(occurrence.place) > sum(not entry.shards for entry in occurrence.tap.stacked):
        return "the model computes it once for all iterations of a loop"
    if max_iterations is None and any(axis.kind == "while" for axis in occurrence.axes):
        return "it lies in a while loop; give max_iterations"
    return ""


def _arranged(
    group: Sequence[Occurrence], values: Mapping[Key, Any], max_iterations: int | None
) -> Replacement:
    """The values given at one tap, and which iteration gets which."""
    tap, (sizes, shards) = group[0].tap, _leading(group[0], max_iterations)
    expected, rows = shards + _shape(tap), np.full(sizes, -1, np.int32)
    found = []
    for row, occurrence in enumerate(group):
        found.append(_fitting(occurrence.key, values[occurrence.key], expected))
        rows[occurrence.place] = row
    array = found[0][None] if len(found) == 1 else np.stack(found)  # one value is not copied
    return Replacement(tap.turned_back(array, 1 + len(shards)), rows if sizes else None)


def _fitting(key: Key, given: Any, expected: tuple[int, ...]) -> np.ndarray:
    value = given.fitted(expected) if isinstance(given, Prefix) else np.asarray(given)
    if value.shape != expected:
        raise OptionError(
            f"{_name(key)}: the value to plant is {value.shape}, the model's is {expected}; "
            "bring it into the model's layout first"
        )
    return value


def _name(key: Key) -> str:
    return " ".join(filter(None, (key.path, key.site, key.leaf)))


def _leading(
    occurrence: Occurrence, max_iterations: int | None
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Sizes of the loops around a tap, outermost first, and numbers of shards that its values are stacked of."""
    loops = iter(
        axis.size if axis.kind == "scan" else max_iterations or 1
        for axis in occurrence.axes
        if axis.kind in ("scan", "while")
    )
    stacked = _stacked(occurrence.tap)
    sizes = tuple(next(loops) for entry in stacked if not entry.shards)
    return sizes, tuple(entry.shards for entry in stacked if entry.shards)


def _stacked(tap: Tap) -> tuple[Stacked, ...]:
    return tuple(entry for entry in tap.stacked if not entry.shards or tap.spec is None)


def _shape(tap: Tap) -> tuple[int, ...]:
    """Shape of a recorded value at ``tap``: of the whole tensor where a `shard_map` cuts it."""
    if tap.spec is None:
        return tap.shape
    return tap.turned(np.broadcast_to(0, tap.slot.var.aval.shape)).shape


def _cut(tap: Tap) -> Any:
    if tap.spec is not None:
        return tap.spec
    return next((entry.axes for entry in tap.stacked if entry.shards), None)
