"""The place of the first wrong tensor: both sides' numbers there, and everything recorded before it.

Apart, because every hypothesis reads the same numbers in the same way: float64, in the reference's layout.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from firstdiff.diff.floor import Floors, run_dtype
from firstdiff.diff.judge import WARN
from firstdiff.diff.masks import truth
from firstdiff.diff.measure import Side
from firstdiff.traces.dtypes import unit_roundoff
from firstdiff.traces.padding import valid_elements

if TYPE_CHECKING:
    from collections.abc import Iterator

    from firstdiff.diff.row import Row
    from firstdiff.traces import Trace
    from firstdiff.traces.schema import Activation

TINY = float(np.finfo(float).tiny)
"""Smallest normal float64: a floor is never 0."""
_LEAST = 8


@dataclass(frozen=True)
class Scene:
    """One wrong tensor and its surroundings."""

    reference: Trace
    """The reference."""
    port: Trace
    """The port."""
    row: Row
    """The wrong tensor: a measured pair of floating-point activations."""
    rows: tuple[Row, ...]
    """Every row of the comparison."""
    padding: np.ndarray | None = None
    """bool[batch, tokens], True at real tokens; None without padding."""

    @property
    def target(self) -> Activation:
        """The reference's activation."""
        return self.row.activation

    @cached_property
    def right(self) -> np.ndarray:
        """The reference's numbers, float64."""
        return self.recorded(self.target)

    @cached_property
    def wrong(self) -> np.ndarray:
        """The port's numbers in the reference's layout, float64."""
        return self.ported(self.row)

    @cached_property
    def valid(self) -> np.ndarray:
        """bool of the tensor's shape: real tokens, finite on both sides."""
        real = valid_elements(self.target.shape, self.padding)
        finite = np.isfinite(self.right) & np.isfinite(self.wrong)
        return np.asarray(finite if real is None else finite & real)

    @cached_property
    def tokens(self) -> tuple[np.ndarray, np.ndarray]:
        """Both sides as float64[real tokens, channels]: the reference's, the port's."""
        width = self.target.shape[-1]
        keep = self.valid.reshape(-1, width).all(axis=1)
        return self.right.reshape(-1, width)[keep], self.wrong.reshape(-1, width)[keep]

    @cached_property
    def config(self) -> dict[str, Any]:
        """The reference model's configuration; that of its text part where it has several."""
        config = dict(self.reference.header.model.get("config") or {})
        nested = config.get("text_config")
        return {**config, **nested} if isinstance(nested, dict) else config

    @cached_property
    def floor(self) -> float:
        """L2 norm of the rounding error to expect of the port, over `valid`."""
        return self.floor_of(norm(self.right[self.valid]))

    def floor_of(self, size: float) -> float:
        """The same for a tensor, or a part of one, of L2 norm ``size``."""
        assert self.row.floor is not None, "a scene is made for a row with a floor"
        return max(self.row.floor.norm(size), TINY)

    def misses(self, value: np.ndarray, at: Activation | None = None) -> float:
        """||reference - ``value``|| over the reference's own rounding floor: below 3, ``value`` reproduces it.

        ``at`` is another activation of the reference; None means the wrong one. Elements that are not finite in the
        reference, and NaN in ``value`` where it was not evaluated, are left out; 8 of them have to remain.
        """
        at = at or self.target
        made = self.made if at.key.site == "output" else self.recorded
        ours = self.right if at is self.target else made(at)
        real = valid_elements(at.shape, self.padding)
        keep = np.isfinite(ours) & ~np.isnan(value)
        keep = keep if real is None else keep & real
        if keep.sum() < _LEAST:
            return np.inf
        size = norm(ours[keep])
        floor = self._own_floors.of(at, at, size, int(keep.sum())).norm(size)
        left = norm(ours[keep] - np.broadcast_to(value, ours.shape)[keep])
        return left / max(floor, TINY) if np.isfinite(left) else np.inf

    def reproduces(self, value: np.ndarray, at: Activation | None = None) -> bool:
        """Whether ``value`` is the reference's tensor up to rounding."""
        return self.misses(value, at) < WARN

    @cached_property
    def _own_floors(self) -> Floors:
        dtype = run_dtype(self.reference.activations)
        return Floors.of_trace(self.reference, dtype)

    def recorded(self, activation: Activation) -> np.ndarray:
        """The reference's numbers, float64."""
        return np.asarray(self.reference.values(activation), np.float64)

    def made(self, output: Activation) -> np.ndarray:
        """What the reference's module returned at ``output``; in a replay something else may have gone on."""
        return self.recorded(output)

    def given(self, activation: Activation) -> np.ndarray:
        """What the port had at the reference's ``activation``: its own where they agree, else the reference's."""
        row = self._by_order.get(activation.order)
        if (
            row is None
            or row.verdict.kind != "agrees"
            or row.pair is None
            or row.pair.port.place is None
        ):
            return self.recorded(activation)
        return self.ported(row)

    def ported(self, row: Row) -> np.ndarray:
        """The port's numbers of ``row`` in the reference's layout, float64; once, where the port repeats them."""
        assert row.pair is not None, "a pair"
        values = np.asarray(self.port.values(row.pair.port), np.float64)
        if row.layout is None:
            return values
        laid = np.ascontiguousarray(row.layout.port(values)).reshape(row.layout.reference_shape)
        own = row.pair.reference.shape
        if row.layout.kind != "broadcast" or laid.ndim != len(own):
            return laid
        return laid[tuple(slice(0, size) for size in own)]

    @cached_property
    def _by_order(self) -> dict[int, Row]:
        """Rows of whole activations: a part of one would be too small."""
        whole = (r for r in self.rows if r.pair is not None and r.pair.reference.part is None)
        return {r.activation.order: r for r in whole}

    def before(self) -> Iterator[Activation]:
        """The reference's recorded activations before the tensor in the same step, the latest first."""
        for activation in reversed(self.reference.activations):
            same = activation.key.step == self.target.key.step
            if same and activation.order < self.target.order and activation.place is not None:
                yield activation

    def inputs(self) -> list[Activation]:
        """What the reference's module was given in the call that returned the tensor; none for an input."""
        if self.target.key.site != "output":
            return []
        return self.inputs_of(self.target)

    def inputs_of(self, output: Activation) -> list[Activation]:
        """Floating-point inputs of the call that returned ``output``."""
        key = output.key
        call = (key.path, key.method, key.call, key.step)
        return [
            a for a in self.reference.activations
            if a.key.site == "input" and (a.key.path, a.key.method, a.key.call, a.key.step) == call
            and is_float(a) and a.place is not None
        ]  # fmt: skip

    def parameter(self, name: str) -> np.ndarray | None:
        """The reference's parameter ``name``, float64; None where its trace does not keep it."""
        kept = self.reference.parameters.get(name)
        return None if kept is None else np.asarray(self.reference.values(kept), np.float64)

    def visible(self, activation: Activation) -> np.ndarray | None:
        """The mask ``activation`` as bool, True where tokens are seen; None when it is no mask."""
        return truth(Side(self.reference.stored(activation), activation.dtype))


def norm(values: np.ndarray) -> float:
    """L2 norm."""
    with np.errstate(over="ignore", invalid="ignore"):
        return float(np.sqrt(np.square(values, dtype=np.float64).sum()))


def is_float(activation: Activation) -> bool:
    """Whether it holds floating-point numbers."""
    return unit_roundoff(activation.dtype) > 0 and not activation.dtype.startswith("complex")
