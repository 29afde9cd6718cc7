"""State that a call changes in its model: caches, counters of random streams, running averages.

A step begins with the state that the step before left, as in a plain run; the user's own model is never
written to. What is changed in place becomes an output of the traced program, and nothing else does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from firstdiff.tracer.jax import compat
from firstdiff.tracer.jax.frontend import is_array

if TYPE_CHECKING:
    from firstdiff.tracer.jax.frontend import Split


_COLLECTIONS = ("cache", "batch_stats")
_NOT_CARRIED = (
    "state: the call returns a changed {!r} and does not store it in the model, so every step began with the same one; "
    "store it (model[...] = ...) or give it to the next step as an input"
)


class Returned(NamedTuple):
    """What the program of one step returns."""

    result: Any
    """What the call returns."""
    state: dict[int, Any]
    """Arrays of the model that the call changed in place, by their place in `Split.arrays`."""
    other: bool
    """Whether the model has another structure now (a variable was added): then `state` holds every array."""


def returned(result: Any, before: Split, after: Split) -> tuple[Returned, list[str]]:
    """``result``, with what tells the model ``after`` a call from that ``before``; and names of what was changed
    but cannot be taken out.

    Both splits are of one trace, so an array that was not changed is the same object.
    """
    other = before.static != after.static or len(before.arrays) != len(after.arrays)
    if other:
        return Returned(result, dict(enumerate(after.arrays)), True), []
    pairs = zip(before.arrays, after.arrays, strict=True)
    changed = {place: new for place, (old, new) in enumerate(pairs) if new is not old}
    lost = [place for place, new in changed.items() if not compat.is_outside(new)]
    state = {place: new for place, new in changed.items() if place not in lost}
    return Returned(result, state, False), [before.name(place) for place in lost]


class Unkept:
    """State that steps return and that nobody carries, for notes."""

    def __init__(self) -> None:
        self._names: list[str] = []

    def after(
        self, model: Any, split: Split, inputs: Mapping[str, Any], done: Returned
    ) -> list[str]:
        """Notes after a step with these ``inputs``: from the second one on, on what the one before returned."""
        notes = [_NOT_CARRIED.format(name) for name in self._names if name not in inputs]
        stored = [] if done.other else [split.name(place) for place in done.state]
        self._names = not_put_back(model, done.result, inputs, stored)
        return notes


def not_put_back(
    model: Any, result: Any, inputs: Mapping[str, Any], kept: Iterable[str]
) -> list[str]:
    """Parts of a tree ``model`` that ``result`` holds with other values, although the call neither stored them
    (then their names are among ``kept``) nor got them with ``inputs``.

    So linen's collections and Haiku's and Equinox's states look when the caller is to pass them on. Parameters,
    the first or `params`, are left out: what looks like them is a gradient.
    """
    stored = {name.partition(".")[0] for name in kept}
    found = []
    for name, part in _parts(model):
        if name in stored or name in inputs:
            continue
        leaves, structure = jax.tree_util.tree_flatten(part)
        same = (jax.tree_util.tree_leaves(node) for node in _nodes(result, structure))
        if any(_differ(leaves, others) for others in same):
            found.append(name)
    return found + [
        name for name in _collections(result) if name not in inputs and not _holds(model, name)
    ]


def _holds(model: Any, name: str) -> bool:
    return isinstance(model, Mapping) and name in model


def _collections(result: Any) -> list[str]:
    """linen's collections among the keys of mappings in ``result``: a step may be the first to make one."""

    def has(node: Any) -> bool:
        return isinstance(node, Mapping) and any(name in node for name in _COLLECTIONS)

    nodes = [node for node in jax.tree_util.tree_leaves(result, is_leaf=has) if has(node)]
    return [name for name in _COLLECTIONS if any(name in node for node in nodes)]


def _parts(model: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(model, Mapping):
        named = ((str(name), part) for name, part in model.items() if name != "params")
    elif type(model) in (tuple, list):
        named = ((str(place), part) for place, part in enumerate(model) if place)
    else:
        return
    for name, part in named:
        if not is_array(part) and any(map(is_array, jax.tree_util.tree_leaves(part))):
            yield name, part


def _nodes(tree: Any, structure: Any) -> list[Any]:
    """Sub-trees of ``tree`` that have ``structure``."""

    def has(node: Any) -> bool:
        return bool(jax.tree_util.tree_structure(node) == structure)

    return [node for node in jax.tree_util.tree_leaves(tree, is_leaf=has) if has(node)]


def _differ(ours: list[Any], theirs: list[Any]) -> bool:
    """Whether arrays of the same shapes hold other values."""
    if any(np.shape(one) != np.shape(other) for one, other in zip(ours, theirs, strict=True)):
        return False
    pairs = zip(ours, theirs, strict=True)
    return any(is_array(one) and not np.array_equal(one, other) for one, other in pairs)
