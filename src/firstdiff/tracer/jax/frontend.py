"""Front ends: who decides where taps go. Apart, as the one list that a new framework is added to.

A framework is one file and one row here. Its file is imported only when its package has been
imported already (a model of that framework exists) or when the user names it.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol, cast

import jax
import numpy as np

from firstdiff.tracer.jax.tap import join
from firstdiff.traces.errors import OptionError


@dataclass(frozen=True)
class Split:
    """A model as a jitted function wants it: arrays outside, everything else closed over."""

    arrays: Any
    """A pytree of arrays: the jit argument."""
    rebuild: Callable[[Any], Any]
    """Gives the model back from such a pytree; called inside the trace, with tracers."""
    static: Any = ""
    """What tells two splits with arrays of equal shapes apart: the rest, compared by value."""
    running: Callable[[Any], AbstractContextManager[Any]] | None = None
    """Yields the model with such arrays in it while inside, where `rebuild` alone cannot give one."""
    name: Callable[[int], str] = str
    """Path of the n-th array in the model, for messages."""

    def run(self, arrays: Any) -> AbstractContextManager[Any]:
        """Yields the model with ``arrays`` in it. What the model changes in place is seen by
        `FrontEnd.split` while inside."""
        if self.running is None:
            return contextlib.nullcontext(self.rebuild(arrays))
        return self.running(arrays)


class FrontEnd(Protocol):
    """What a framework's file offers. Instances are made without arguments."""

    name: str
    """As in the table below, and in the trace's header."""

    def handles(self, model: Any) -> bool:
        """Whether ``model`` is one that this front end can tap."""

    def installed(self, model: Any) -> AbstractContextManager[Any]:
        """Install taps; yields the model to call (``model`` itself, or a tapped copy).

        Leaving removes every trace of them, after an exception or Ctrl-C too. Nothing is recorded
        unless a capture is tracing (`tap_call` sees to that).
        """

    def split(self, model: Any) -> Split:
        """Arrays and the rest. Called inside `installed` with what it yielded, and outside with the
        plain model."""

    def modules(self, model: Any, module: Any = None) -> Sequence[tuple[str, str]]:
        """Every module as (dotted path, class name), in the model's own order; the root is ``""``.

        ``module`` is `Subject.module`, where the user gave one. A class name is "" when it is not
        known.
        """

    def aliases(self, model: Any) -> Mapping[str, tuple[str, ...]]:
        """Other paths of a shared module, by the path under which it is recorded."""


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    target: str
    """`module:class` of the front end, imported on use."""
    package: str
    """A model of this framework cannot exist while this is missing from `sys.modules`; "" for
    none."""
    anywhere: bool = False
    """Whether its taps need nothing of the model: they are installed beside any other front end, for modules
    inside another framework's or inside plain functions."""


FRONT_ENDS: dict[str, Row] = {
    "nnx": Row("firstdiff.tracer.jax.nnx:NnxFrontEnd", "flax.nnx"),
    "equinox": Row("firstdiff.tracer.jax.equinox:EquinoxFrontEnd", "equinox"),
    "keras": Row("firstdiff.tracer.jax.keras:KerasFrontEnd", "keras"),
    "linen": Row("firstdiff.tracer.jax.linen:LinenFrontEnd", "flax.linen", anywhere=True),
    "haiku": Row("firstdiff.tracer.jax.haiku:HaikuFrontEnd", "haiku", anywhere=True),
    "functions": Row("firstdiff.tracer.jax.functions:FunctionsFrontEnd", ""),
}
"""Most specific first: the first that handles a model also splits it. linen and haiku share
parameter trees."""


FALLBACK = "functions"
"""The front end that is installed only where no other one, and no `firstdiff.tap`, recorded
anything, or where the user names it."""


def load(name: str) -> FrontEnd:
    """The front end of that name. `OptionError` for a name that is not in the table."""
    row = FRONT_ENDS.get(name)
    if row is None:
        raise OptionError(f"framework {name!r} is unknown; it is one of {', '.join(FRONT_ENDS)}")
    module, _, attribute = row.target.partition(":")
    return cast("FrontEnd", getattr(importlib.import_module(module), attribute)())


def front_ends_for(model: Any, framework: str | None = None) -> tuple[FrontEnd, ...]:
    """The front ends to install for ``model``: the one named, or all that handle it, then those whose modules may
    be called anywhere. The first one splits the model.

    A parameter tree alone does not tell linen from Haiku, so both are installed where both are
    imported: the one that is not used records nothing.
    """
    if framework == FALLBACK:
        return (load(framework),)
    present = [
        name for name, row in FRONT_ENDS.items() if not row.package or row.package in sys.modules
    ]
    fronts = {name: load(name) for name in (*filter(None, [framework]), *present)}
    first = [name for name in fronts if framework is None and fronts[name].handles(model)]
    anywhere = [name for name in present if FRONT_ENDS[name].anywhere]
    names = dict.fromkeys((*filter(None, [framework]), *first, *anywhere))
    return tuple(fronts[name] for name in names)


def is_array(value: object) -> bool:
    """Whether ``value`` is an array that can be an argument of a jitted function."""
    return isinstance(value, jax.Array) or (
        isinstance(value, np.ndarray | np.generic)
        and value.dtype != object
        and value.dtype.kind not in "USV"
    )


def split_pytree(model: Any) -> Split:
    """`FrontEnd.split` for a model that is a pytree: array leaves are arguments, all other leaves
    are closed over."""
    leaves, structure = jax.tree_util.tree_flatten(model)
    where = [index for index, leaf in enumerate(leaves) if is_array(leaf)]
    static = [None if is_array(leaf) else leaf for leaf in leaves]

    def rebuild(arrays: Sequence[Any]) -> Any:
        whole = list(static)
        for index, array in zip(where, arrays, strict=True):
            whole[index] = array
        return jax.tree_util.tree_unflatten(structure, whole)

    def name(place: int) -> str:
        return join("", jax.tree_util.tree_flatten_with_path(model)[0][where[place]][0])

    arrays = [leaves[index] for index in where]
    return Split(arrays, rebuild, f"{structure} {static}", name=name)


def is_parameter_tree(model: object) -> bool:
    """Whether ``model`` is a mapping whose leaves are arrays: what linen, Haiku and plain functions
    call with."""
    if not isinstance(model, Mapping):
        return False
    leaves = jax.tree_util.tree_leaves(model)
    return any(is_array(leaf) for leaf in leaves)
