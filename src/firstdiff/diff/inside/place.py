"""The module that a zoom looks into: its name, and its paths in both traces."""

from __future__ import annotations

from typing import TYPE_CHECKING

from firstdiff.diff.names import wrapper_prefix
from firstdiff.traces.errors import OptionError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from firstdiff.diff.row import Row
    from firstdiff.traces import Trace

Sides = tuple[tuple[str, ...], tuple[str, ...]]
"""Paths in the reference, paths in the port."""


def module_named(rows: Sequence[Row], module: str) -> str:
    """The aligned ``module``, given as either side spells it, in the reference's spelling without its wrapper.

    Raises `OptionError` when there is none.
    """
    found = {row.name: row for row in rows if row.side != "port"}
    for row in found.values():
        paths = [row.name, row.key.path]
        if row.pair is not None:
            paths.append(row.pair.port.key.path)
        if module in paths or (module in (".", "model") and not row.name):
            return row.name
    some = ", ".join([name for name in found if name][:4])
    raise OptionError(f"{module}: no aligned module has this path; there are {some}")


def paths_of(rows: Sequence[Row], name: str, ours: Trace, theirs: Trace) -> Sides:
    """Paths of the module ``name`` in both traces; of the model itself also those of its wrappers."""
    if not name:
        return _tops(ours), _tops(theirs)
    pairs = [row.pair for row in rows if row.name == name and row.pair is not None]
    return (
        tuple(dict.fromkeys(pair.reference.key.path for pair in pairs)),
        tuple(dict.fromkeys(pair.port.key.path for pair in pairs)),
    )


def _tops(trace: Trace) -> tuple[str, ...]:
    prefix = wrapper_prefix(a.key.path for a in trace.activations).rstrip(".")
    return tuple(dict.fromkeys(("", prefix, _root(trace))))


def _root(trace: Trace) -> str:
    """Path of the root module, which goes by its class name where the call does more than call it."""
    tops = {a.key.path: a.class_name for a in trace.activations if "." not in a.key.path}
    return next((path for path, name in tops.items() if path and path == name), "")


def parent(path: str) -> str | None:
    """The module around ``path``; a member of a list lies directly in what holds the list."""
    if not path:
        return None
    around, _, last = path.rpartition(".")
    return around.rpartition(".")[0] if last.isdigit() else around
