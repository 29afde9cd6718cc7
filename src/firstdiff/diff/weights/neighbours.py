"""Modules between the same neighbours in the order of running: what says which activation or dropout is which."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

PASSIVE = ("Dropout", "Identity", "DropPath", "StochasticDepth")
"""Beginnings of names of classes that change nothing outside training: a port often has no such module."""

Gap = tuple[str, str, str]
"""Parent, the paired module that runs before, the one that runs after; paths of the port."""


def by_neighbours(
    reference: Mapping[str, str], port: Mapping[str, str], known: Mapping[str, str]
) -> list[tuple[str, str]]:
    """Pairs of modules that are alone between the same paired neighbours of the same paired parent.

    ``reference`` and ``port`` are classes by path, in the order of running; ``known`` maps the reference's paths to
    the port's. Where several stand in one gap they are paired in order, if there are as many on the other side,
    dropouts left out.
    """
    ours = _gaps(reference, known)
    theirs = _gaps(port, {path: path for path in known.values()})
    pairs = []
    for gap, here in ours.items():
        there = theirs.get(gap, [])
        if len(here) != len(there):
            here, there = (
                [path for path in side if not is_passive(classes[path])]
                for side, classes in ((here, reference), (there, port))
            )
        if len(here) == len(there):
            pairs += list(zip(here, there, strict=True))
    return pairs


def is_passive(class_name: str) -> bool:
    """Whether modules of that class change nothing outside training."""
    return class_name.startswith(PASSIVE)


def parent(path: str) -> str:
    """The module around ``path``; containers that only count, as `layers` of `layers.0`, are kept."""
    return path.rpartition(".")[0]


def _gaps(order: Iterable[str], known: Mapping[str, str]) -> dict[Gap, list[str]]:
    """Unpaired modules by the gap in which they stand."""
    siblings: dict[str, list[str]] = defaultdict(list)
    for path in order:
        if path:
            siblings[parent(path)].append(path)
    gaps: dict[Gap, list[str]] = defaultdict(list)
    for home, children in siblings.items():
        if home not in known:
            continue
        names = [known.get(child, "") for child in children]
        for place, child in enumerate(children):
            if not names[place]:
                before = next((n for n in reversed(names[:place]) if n), "")
                after = next((n for n in names[place + 1 :] if n), "")
                gaps[known[home], before, after].append(child)
    return gaps
