"""Parameters of Equinox modules."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import equinox
import jax

from firstdiff.tracer.jax.parameters import is_recordable, key_name, record

if TYPE_CHECKING:
    from collections.abc import Iterator

    from firstdiff.traces.parameters import Parameter


def equinox_parameters(model: Any) -> tuple[Parameter, ...]:
    """Every array of a module, or of a tree of modules; () when there is no Equinox module in it."""
    leaves = jax.tree_util.tree_leaves(model, is_leaf=lambda x: isinstance(x, equinox.Module))
    if not any(isinstance(leaf, equinox.Module) for leaf in leaves):
        return ()
    return tuple(_leaves(model))


def _leaves(model: Any) -> Iterator[Parameter]:
    for path, leaf in jax.tree_util.tree_flatten_with_path(model)[0]:
        if is_recordable(leaf):
            name = ".".join(key_name(key) for key in path)
            yield record(name, leaf, "equinox", "parameter", type(_owner(model, path)).__name__)


def _owner(model: Any, path: tuple[Any, ...]) -> Any:
    for key in path[:-1]:
        model = (
            getattr(model, key.name)
            if hasattr(key, "name")
            else model[key.idx if hasattr(key, "idx") else key.key]
        )
    return model
