"""Layers that one side keeps in groups: a block of two decoder layers, a scan over pairs.

Their numbers do not meet (`blocks.1.sub_0` is `layers.2`), so units are told by what is in them, and by the order in
which they run.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from firstdiff.diff.aliases import readings
from firstdiff.diff.modules import Module, ModulePair
from firstdiff.diff.names import Segments, normalise

if TYPE_CHECKING:
    from collections.abc import Mapping

_ALIKE = 0.6
"""Share of a layer's modules that a unit of the other side has to have."""
_FEWEST = 3
"""Modules that a layer has to have for that."""

Unit = dict[Segments, Module]
"""The modules of one layer, by their path below it."""


def match_grouped(
    reference: Sequence[Module], port: Sequence[Module], _pairs: Sequence[ModulePair]
) -> list[ModulePair]:
    """A matcher: the n-th layer of one side and the n-th unit of the other with the same modules in it, where there
    are as many of both."""
    for ours, theirs, swap in ((reference, port, False), (port, reference, True)):
        layers = _layers(ours)
        units = _units(theirs, layers)
        if len(layers) > 1 and len(layers) == len(units):
            found = [
                pair
                for one, other in zip(layers, units, strict=True)
                for pair in _within(one, other)
            ]
            return [
                ModulePair(b, a, "alias") if swap else ModulePair(a, b, "alias") for a, b in found
            ]
    return []


def _layers(modules: Iterable[Module]) -> list[Unit]:
    """The layers of the largest numbered stack, in the order in which they run."""
    stacks: dict[Segments, dict[str, Unit]] = defaultdict(lambda: defaultdict(dict))
    for module in modules:
        path = normalise(module.path)
        places = [place for place, segment in enumerate(path) if segment.isdigit()]
        if places and module.method == "call":
            first = places[0]
            stacks[path[:first]][path[first]][path[first + 1 :]] = module
    largest = max(stacks.values(), key=lambda stack: sum(map(len, stack.values())), default={})
    return sorted(largest.values(), key=_start)


def _units(modules: Iterable[Module], layers: Sequence[Unit]) -> list[Unit]:
    """Units below which most of what a layer has is found under the same names or roles; the innermost such."""
    wanted = _roles(Counter(rest for layer in layers for rest in layer if rest))
    if len(wanted) < _FEWEST:
        return []
    below: dict[Segments, Unit] = defaultdict(dict)
    for module in modules:
        path = normalise(module.path)
        if module.method == "call":
            for depth in range(1, len(path) + 1):
                below[path[:depth]][path[depth:]] = module
    alike = {
        prefix
        for prefix, unit in below.items()
        if len(_roles(unit) & wanted) >= _ALIKE * len(wanted)
    }
    return sorted((below[prefix] for prefix in alike), key=_start)


def _roles(rests: Iterable[Segments]) -> set[Segments]:
    """One reading of each path: what it is called, in roles."""
    return {min(readings(".".join(rest))) for rest in rests if rest}


def _within(
    one: Mapping[Segments, Module], other: Mapping[Segments, Module]
) -> list[tuple[Module, Module]]:
    """Modules of one name, then of one role, in two units."""
    found = [(module, other[rest]) for rest, module in one.items() if rest in other]
    taken = {id(b) for _, b in found}
    roles: dict[Segments, list[Module]] = defaultdict(list)
    for rest, module in other.items():
        if id(module) not in taken and rest:
            roles[min(readings(".".join(rest)))].append(module)
    for rest, module in one.items():
        if rest in other or not rest:
            continue
        rivals = roles.get(min(readings(".".join(rest))), [])
        if len(rivals) == 1:
            found.append((module, rivals.pop()))
    return found


def _start(unit: Mapping[Segments, Module]) -> int:
    return min(module.activations[0].order for module in unit.values())
