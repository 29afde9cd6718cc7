"""What the program goes on with in place of its own values at one tap, on its way in through loops and shards.

Apart from `plant.py`, which arranges the values, and from the rules, which know one transformation each. However many
iterations a loop has, only the values that are given take room: they are constants of the loop, and what is sliced or
indexed by iteration is a number for each, which of them it gets.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as Spec

from firstdiff.tracer.jax import compat


class Replacement(NamedTuple):
    """The values of one tap. A tree of arrays: it goes through `jit` as it is."""

    values: Any
    """(given values, stacked shards if any, *shape of the value)."""
    rows: Any
    """int32 with an axis for each loop that still encloses the tap: which of ``values`` an iteration gets, -1 for
    its own. None outside of loops: the first."""

    def with_rows(self, rows: Any) -> Replacement:
        """The same values for one iteration of the outermost loop, or for all."""
        return self._replace(rows=rows)

    def at_trip(self, trip: Any) -> Replacement:
        """Iteration ``trip`` of a while loop, of which some first ones are numbered; later ones keep their own."""
        last = self.rows.shape[0] - 1
        row = jax.lax.dynamic_index_in_dim(self.rows, jnp.minimum(trip, last), 0, keepdims=False)
        return self.with_rows(jnp.where(trip <= last, row, -1))

    def specs(self, cut: Any) -> Replacement:
        """Partition specs; ``cut`` is the value's spec, a tuple of axes that stacked shards run over, or None for
        the same everywhere."""
        each: tuple[Any, ...] = tuple(cut) if isinstance(cut, Spec) else (cut,) if cut else ()
        spec: Any = Spec
        return Replacement(spec(None, *each), None if self.rows is None else spec())

    def local(self, cut: Any) -> Replacement:
        """What one shard gets of what came in by `specs`."""
        if isinstance(cut, Spec) or not cut:
            return self
        return self._replace(values=self.values[:, 0])

    def instead_of(self, own: Any) -> Any:
        """The value of this iteration in the type of ``own``; ``own`` itself where it keeps that."""
        aval = jax.typeof(own)
        row = 0 if self.rows is None else jnp.maximum(self.rows, 0)
        value = jax.lax.dynamic_index_in_dim(jnp.asarray(self.values), row, 0, keepdims=False)
        value = compat.like(value.astype(aval.dtype), aval)
        return value if self.rows is None else jnp.where(self.rows >= 0, value, own)
