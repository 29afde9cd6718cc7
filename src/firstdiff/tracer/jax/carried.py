"""What a decoding step hands to the next one: goes through the compiled program, and is not recorded.

Apart, because a cache would otherwise be written whole with every step, and its leaves taken for results.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax


@jax.tree_util.register_pytree_node_class
class Carried:
    """A cache of whatever structure."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def tree_flatten(self) -> tuple[tuple[Any], None]:
        """For JAX."""
        return (self.value,), None

    @classmethod
    def tree_unflatten(cls, _static: None, children: tuple[Any]) -> Carried:
        """For JAX."""
        return cls(children[0])


class Stepped(NamedTuple):
    """What one decoding step returns; the output alone is recorded."""

    output: Any
    """The model's own."""
    cache: Carried
    """For the next step."""
