"""Modules as trees of paths, each with the reference parameters that lie below it. What the map compares."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from firstdiff.diff.names import REPEATED

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from firstdiff.diff.weights.match import Fixed
    from firstdiff.diff.weights.search import Found

Contents = frozenset[tuple[int, str]]
"""Reference parameters, each as its number and which part of it."""


def ancestors(path: str) -> list[str]:
    """``path`` and every module around it, innermost first; the root ``""`` is last."""
    found = [path]
    while path:
        path = path.rpartition(".")[0]
        found.append(path)
    return found


def contents(found: Found, known: Sequence[str]) -> tuple[dict[str, Contents], dict[str, Contents]]:
    """By module path of either side: the reference parameters below it. Only certain matches count.

    ``known`` are the port's module paths as a trace spells them: layers of a stack are `layers.0`, `layers.1`.
    """
    sides: tuple[dict[str, set[tuple[int, str]]], ...] = (defaultdict(set), defaultdict(set))
    paths = set(known)
    first = _first_of_equals(found)
    for match in (match for match in found.matches if match.certain):
        item = (first[match.reference], match.reference_part + str(match.reference_fixed or ""))
        parameter = found.reference.parameters[match.reference]
        other = found.port.parameters[match.port]
        homes = {name.rpartition(".")[0] for name in (parameter.name, *parameter.aliases)}
        there = {stacked_path(other.owner, match.port_fixed, paths)}
        there |= {alias.rpartition(".")[0] for alias in other.aliases}
        for side, owners in zip(sides, (homes, there), strict=True):
            for owner in owners:
                for path in ancestors(owner):
                    side[path].add(item)
    for number, unit in found.copies:
        owner = found.port.parameters[unit.number].owner
        for path in ancestors(stacked_path(owner, unit.fixed, paths)):
            sides[1][path].add((first[number], ""))
    return ({path: frozenset(items) for path, items in sides[0].items()},
            {path: frozenset(items) for path, items in sides[1].items()})  # fmt: skip


def _first_of_equals(found: Found) -> list[int]:
    """For each reference parameter the first that has the same values: equal ones do not tell modules apart."""
    seen: dict[tuple[object, ...], int] = {}
    keys = [(known.count, *sorted(known.hashes.items())) for known in found.reference.prints]
    return [seen.setdefault(key, number) for number, key in enumerate(keys)]


def stacked_path(owner: str, fixed: Fixed, known: Iterable[str] = ()) -> str:
    """The path of one layer of a scanned stack: `layers.3.mlp.gate_proj` of `layers.mlp.gate_proj` and slice 3.

    The index stands where ``known`` paths have it, else behind the name of the stack.
    """
    if not fixed:
        return owner
    parts = owner.split(".")
    places = range(len(parts), 0, -1)
    for _, index in fixed:
        spelt = [".".join([*parts[:i], str(index), *parts[i:]]) for i in places]
        hit = next((path for path in spelt if path in known), None)
        if hit is not None:
            return hit
    index = fixed[0][1]
    for place, part in enumerate(parts):
        if part.rstrip("_").casefold() in REPEATED:
            return ".".join([*parts[: place + 1], str(index), *parts[place + 1 :]])
    return ".".join([parts[0], str(index), *parts[1:]])
