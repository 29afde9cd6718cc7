"""Parameters of trees of arrays: linen, Haiku and plain functions. Frameworks with modules have files of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from firstdiff.tracer.jax.frontend import is_array
from firstdiff.traces.dtypes import is_known, storage
from firstdiff.traces.parameters import Kind, Parameter

_LEARNED = "params"


def linen_parameters(model: Any) -> tuple[Parameter, ...]:
    """The leaves of linen's variables; other collections than `params` are buffers. () when it is no such tree.

    A tree counts as linen's when it is a mapping whose innermost names are linen's own.
    """
    found = tree_parameters(model)
    leaves = {p.leaf for p in found}
    if not leaves & {"kernel", "scale", "embedding"}:
        return ()
    return tuple(replace(p, framework="linen") for p in found)


def haiku_parameters(model: Any) -> tuple[Parameter, ...]:
    """The leaves of Haiku's two-level parameters. () when it is no such tree."""
    if not isinstance(model, Mapping) or not model:
        return ()
    if not all(
        isinstance(v, Mapping) and not any(isinstance(w, Mapping) for w in v.values())
        for v in model.values()
    ):
        return ()
    return tuple(
        replace(p, name=".".join(_dotted(p.name)), framework="haiku")
        for p in tree_parameters(model)
    )


def tree_parameters(model: Any) -> tuple[Parameter, ...]:
    """Every array of a pytree by its path, dots between; a leading `params` is dropped."""
    if not jax.tree_util.tree_leaves(model):
        return ()
    return tuple(_leaves(model))


def array_reader(array: Any) -> Callable[[], np.ndarray]:
    """Gives the storage array of a JAX or numpy ``array`` when it is called."""
    return lambda: storage(np.asarray(array))[0]


def record(
    name: str, array: Any, framework: str, kind: Kind = "parameter", class_name: str = ""
) -> Parameter:
    """The record of one array."""
    return Parameter(
        name, tuple(array.shape), array.dtype.name, array_reader(array), class_name, framework, kind
    )


def is_recordable(leaf: Any) -> bool:
    """Whether ``leaf`` is an array of numbers: random keys are not."""
    return is_array(leaf) and is_known(leaf.dtype.name)


def key_name(key: Any) -> str:
    """One step of a pytree path, as people write it."""
    for attribute in ("key", "idx", "name"):
        if hasattr(key, attribute):
            return str(getattr(key, attribute))
    return str(key)


def _leaves(model: Any) -> Iterator[Parameter]:
    for path, leaf in jax.tree_util.tree_flatten_with_path(model)[0]:
        if not is_recordable(leaf):
            continue
        parts = [key_name(key) for key in path]
        kind: Kind = "parameter"
        if isinstance(model, Mapping) and _LEARNED in model and len(parts) > 1:
            kind = "parameter" if parts[0] == _LEARNED else "buffer"
            parts = parts[1:]
        yield record(".".join(parts).replace("/", "."), leaf, "", kind)


def _dotted(name: str) -> list[str]:
    """Haiku's `mlp/~/linear` without the `~` of methods."""
    return [part for part in name.split(".") if part not in ("~", "")]
