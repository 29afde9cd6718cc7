"""The map as matchers of `diff.align`: pairs of modules by weights, then by the call graph around them."""

from __future__ import annotations

from collections import defaultdict
from math import prod
from typing import TYPE_CHECKING

from firstdiff.diff.modules import Evidence, Matcher, Module, ModulePair
from firstdiff.diff.weights.modulemap import CERTAIN, MapPair, ModuleMap
from firstdiff.diff.weights.neighbours import is_passive, parent

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

_EVIDENCE: dict[str, Evidence] = {
    "weights": "weights",
    "contents": "weights",
    "graph": "graph",
    "name": "name",
    "alias": "alias",
    "only one": "only candidate",
}


def weights_matcher(module_map: ModuleMap) -> Matcher:
    """A matcher that pairs modules as ``module_map`` does on weights alone, whatever they are called."""
    certain = [pair for pair in module_map.pairs if pair.confidence >= CERTAIN]
    return _matcher([pair for pair in certain if pair.evidence in ("weights", "contents")])


def map_matcher(module_map: ModuleMap, evidence: Collection[str]) -> Matcher:
    """A matcher that pairs modules as ``module_map`` does on ``evidence``, where their results have equal sizes."""
    return _matcher([pair for pair in module_map.pairs if pair.evidence in evidence], sized=True)


def _matcher(chosen: Sequence[MapPair], *, sized: bool = False) -> Matcher:
    targets = {pair.reference: pair for pair in chosen if not pair.part}

    def match(
        reference: Sequence[Module], port: Sequence[Module], _pairs: Sequence[ModulePair]
    ) -> list[ModulePair]:
        there = {(module.path, module.method): module for module in port}
        found = []
        for module in reference:
            pair = targets.get(module.path)
            other = there.get((pair.port, module.method)) if pair is not None else None
            if pair is None or other is None or (sized and not _same_sizes(module, other)):
                continue
            del there[other.path, other.method]
            evidence = _EVIDENCE[pair.evidence]
            found.append(ModulePair(module, other, evidence, pair.confidence, pair.conflict))
        return found

    return match


def match_graph(
    reference: Sequence[Module], port: Sequence[Module], pairs: Sequence[ModulePair]
) -> list[ModulePair]:
    """A matcher: modules that run between the same paired neighbours, inside the same paired parent, and whose results
    have equal sizes. Where several do, in order, if there are as many on either side."""
    known = {pair.reference.path: pair.port.path for pair in pairs}
    ours = _gaps([p.reference for p in pairs], reference, known)
    theirs = _gaps([p.port for p in pairs], port, {p.port.path: p.port.path for p in pairs})
    found = []
    for gap, here in ours.items():
        there = theirs.get(gap, [])
        if len(here) != len(there):
            here, there = (
                [m for m in side if not is_passive(m.class_name)] for side in (here, there)
            )
        if len(here) == len(there) and all(map(_same_sizes, here, there)):
            found += [
                ModulePair(one, other, "graph") for one, other in zip(here, there, strict=True)
            ]
    return found


def _gaps(
    paired: Sequence[Module], left: Sequence[Module], known: Mapping[str, str]
) -> dict[tuple[str, str, str, str], list[Module]]:
    """Unpaired modules by parent, paired sibling before, paired sibling after, and method."""
    waiting = {id(module) for module in left}
    siblings: dict[str, list[Module]] = defaultdict(list)
    for module in sorted([*paired, *left], key=_start):
        if module.path:
            siblings[parent(module.path)].append(module)
    gaps: dict[tuple[str, str, str, str], list[Module]] = defaultdict(list)
    for home, children in siblings.items():
        if home not in known:
            continue
        names = ["" if id(m) in waiting else known.get(m.path, "") for m in children]
        for place, module in enumerate(children):
            if id(module) in waiting:
                before = next((n for n in reversed(names[:place]) if n), "")
                after = next((n for n in names[place + 1 :] if n), "")
                gaps[known[home], before, after, module.method].append(module)
    return gaps


def _start(module: Module) -> int:
    return min(a.order for a in module.activations)


def _same_sizes(one: Module, other: Module) -> bool:
    sizes = [{prod(a.shape) for a in module.outputs()} for module in (one, other)]
    return bool(sizes[0] & sizes[1])
