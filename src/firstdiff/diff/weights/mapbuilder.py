"""How the map is made: weights first, then the call graph, then names."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

from firstdiff.diff.aliases import readings
from firstdiff.diff.names import normalise, similarity
from firstdiff.diff.weights.modulemap import CONFIDENCE, Evidence, MapPair, ModuleMap
from firstdiff.diff.weights.neighbours import by_neighbours, parent
from firstdiff.diff.weights.places import Contents, contents

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from firstdiff.diff.weights.modulemap import Modules
    from firstdiff.diff.weights.search import Found


def module_map(found: Found, reference: Modules = (), port: Modules = ()) -> ModuleMap:
    """Map the modules of both sides by the weights that ``found`` matched.

    ``reference`` and ``port`` are all modules, as the headers of traces list them; without them only owners of
    parameters, and what is around those, are mapped.
    """
    ours, theirs = contents(found, [path for path, _ in port])
    reference = reference or [(path, "") for path in ours]
    port = _unstacked(port, theirs) if port else [(path, "") for path in theirs]
    builder = _Builder(found, ours, theirs, reference, port)
    builder.by_contents()
    builder.by_parts()
    builder.by_surroundings()
    return builder.result()


def _unstacked(port: Modules, theirs: Iterable[str]) -> Modules:
    """``port`` with the layers of a stack one by one: a model that was not run lists a scanned module once."""
    known = dict(port)
    layers: dict[str, list[str]] = defaultdict(list)
    for path in theirs:
        plain = ".".join(part for part in path.split(".") if not part.isdigit())
        if path not in known and plain in known:
            layers[plain].append(path)
    return [(one, kind) for path, kind in port for one in layers.get(path, [path])]


class _Builder:
    """Pairs modules in rounds; a module that is paired stays so."""

    def __init__(
        self,
        found: Found,
        ours: dict[str, Contents],
        theirs: dict[str, Contents],
        reference: Modules,
        port: Modules,
    ) -> None:
        self.found, self.ours, self.theirs = found, ours, theirs
        self.reference, self.port = dict(reference), dict(port)
        self.pairs: dict[str, MapPair] = {}
        self.taken: dict[str, str] = {}
        self.parts: list[MapPair] = []
        self.homes: dict[str, list[str]] = {}
        self.owners = (
            {
                name.rpartition(".")[0]
                for p in found.reference.parameters
                for name in (p.name, *p.aliases)
            },
            {p.owner for p in found.port.parameters},
        )

    def add(
        self, one: str, other: str, evidence: Evidence, confidence: float | None = None
    ) -> None:
        """Pair two modules, unless either is paired already."""
        if one not in self.pairs and other not in self.taken:
            self.pairs[one] = MapPair(one, other, evidence, confidence or CONFIDENCE[evidence])
            self.taken[other] = one

    # Modules with the same parameters below them -----------------------------------------------------------------

    def by_contents(self) -> None:
        """Modules below which the same reference parameters lie. Nested ones that hold the same are told apart by
        what owns parameters, by name, and by depth."""
        groups: dict[Contents, tuple[list[str], list[str]]] = defaultdict(lambda: ([], []))
        for side, paths, known in ((0, self.ours, self.reference), (1, self.theirs, self.port)):
            for path, items in paths.items():
                if items and path in known:
                    groups[items][side].append(path)
        for one, other in groups.values():
            if one and other:
                self._chain(one, other)

    def _chain(self, ours: list[str], theirs: list[str]) -> None:
        owners = [p for p in ours if p in self.owners[0]], [p for p in theirs if self._owns(p)]
        self._best(*owners, "weights")
        rest = [p for p in ours if p not in self.pairs], [p for p in theirs if p not in self.taken]
        if "" in rest[0] and "" in rest[1]:
            self.add("", "", "contents")
        inner = [p for p in rest[0] if p], [p for p in rest[1] if p]
        self._best(*inner, "contents")
        self._wrap(ours, theirs)

    def _wrap(self, ours: list[str], theirs: list[str]) -> None:
        """Wrappers that one side lacks: what runs in `model` runs in the other side's root."""
        whole = next(
            ((p, self.pairs[p].port) for p in ours if p in self.pairs and not self._owned(p)), None
        )
        if whole is None:
            return
        for path in ours:
            if path not in self.pairs and not self._owned(path):
                self.homes.setdefault(path, []).append(whole[1])
        for path in theirs:
            if path not in self.taken and path not in self.owners[1]:
                self.homes.setdefault(whole[0], []).append(path)

    def _owned(self, path: str) -> bool:
        return path in self.owners[0]

    def _owns(self, path: str) -> bool:
        """Whether a module of the port has parameters of its own; a layer of a stack has its slices of them."""
        plain = ".".join(part for part in path.split(".") if not part.isdigit())
        return path in self.owners[1] or plain in self.owners[1]

    def _best(self, ours: list[str], theirs: list[str], evidence: Evidence) -> None:
        """Pair them; where there are several, by name, and with less confidence."""
        if len(ours) == len(theirs) == 1:
            self.add(ours[0], theirs[0], evidence)
            return
        nested = _nested(ours) and _nested(theirs) and len(ours) == len(theirs)
        if nested:
            for one, other in zip(sorted(ours, key=len), sorted(theirs, key=len), strict=True):
                self.add(one, other, evidence, 0.9)
            return
        ranked = sorted(
            ((self._likeness(a, b), a, b) for a in ours for b in theirs),
            key=lambda item: (-item[0], item[1], item[2]),
        )
        for likeness, one, other in ranked:
            self.add(one, other, evidence, 0.9 if likeness > 0.8 else 0.7)

    def _likeness(self, one: str, other: str) -> float:
        own, there = self.reference.get(one, ""), self.port.get(other, "")
        alias = bool(_last_roles(one) & _last_roles(other))
        return similarity(one, other) + 0.5 * alias + 0.3 * (bool(own) and own == there)

    def by_parts(self) -> None:
        """Owners that hold only a part of the other's parameters: fused projections, split ones, merged blocks."""
        for one in self.reference:
            items = self.ours.get(one, frozenset())
            if not items or one in self.pairs or one not in self.owners[0]:
                continue
            for other in self.port:
                there = self.theirs.get(other, frozenset())
                if (
                    self._owns(other)
                    and other
                    and (items < there or there < items or _share_a_parameter(items, there))
                ):
                    self.parts.append(MapPair(one, other, "part", CONFIDENCE["part"], part=True))

    # Modules without parameters ----------------------------------------------------------------------------------

    def by_surroundings(self) -> None:
        """Modules without parameters: by the call graph, then by name, inside paired parents."""
        progress = -1
        while progress != len(self.pairs):
            progress = len(self.pairs)
            self._inside(self._same_name, "name")
            for one, other in by_neighbours(self.reference, self.port, self._known()):
                if self._plausible(one, other):
                    self.add(one, other, "graph")
            self._inside(self._same_role, "alias")
            self._inside(self._same_class, "only one")

    def _known(self) -> dict[str, str]:
        """Pairs, and parts of a fused module by their first."""
        known = {one: pair.port for one, pair in self.pairs.items()}
        for pair in self.parts:
            known.setdefault(pair.reference, pair.port)
        return known

    def _plausible(self, one: str, other: str) -> bool:
        """Whether neither has parameters below it that the other lacks."""
        return not self.ours.get(one) and not self.theirs.get(other)

    def _inside(self, same: Callable[[str, str], bool], evidence: Evidence) -> None:
        """Pair children without parameters of paired parents, where ``same`` leaves one choice on both sides."""
        ours, theirs = (
            self._orphans(self.reference, self.ours, self.pairs),
            self._orphans(self.port, self.theirs, self.taken),
        )
        for home, children in ours.items():
            pair = self.pairs.get(home)
            there = [*([pair.port] if pair is not None else []), *self.homes.get(home, ())]
            others = [other for place in there for other in theirs.get(place, [])]
            choices = {one: [other for other in others if same(one, other)] for one in children}
            for one, found in choices.items():
                rivals = [
                    child for child, options in choices.items() if found and found[0] in options
                ]
                if len(found) == 1 and rivals == [one]:
                    self.add(one, found[0], evidence)

    def _orphans(
        self, modules: Iterable[str], with_contents: dict[str, Contents], paired: Iterable[str]
    ) -> dict[str, list[str]]:
        done = set(paired)
        children: dict[str, list[str]] = defaultdict(list)
        for path in modules:
            if path and path not in done and not with_contents.get(path):
                children[parent(path)].append(path)
        return children

    def _same_name(self, one: str, other: str) -> bool:
        return normalise(one)[-1:] == normalise(other)[-1:]

    def _same_role(self, one: str, other: str) -> bool:
        return bool(_last_roles(one) & _last_roles(other))

    def _same_class(self, one: str, other: str) -> bool:
        own, there = self.reference[one], self.port[other]
        return not own or not there or own == there or _word(own) == _word(there)

    # The result --------------------------------------------------------------------------------------------------

    def result(self) -> ModuleMap:
        """All pairs, with what contradicts them."""
        order = {path: place for place, path in enumerate(self.reference)}
        everything = [*self.pairs.values(), *self.parts]
        pairs = sorted(everything, key=lambda p: (order.get(p.reference, 0), p.port))
        ported = {p.port for p in everything}
        mapped = {p.reference for p in everything}
        return ModuleMap(
            tuple(self._contradicted(pair) for pair in pairs),
            tuple(path for path in self.reference if path not in mapped),
            tuple(path for path in self.port if path not in ported),
        )

    def _contradicted(self, pair: MapPair) -> MapPair:
        """``pair`` with the module of the port that its name would say, when weights say another."""
        if pair.evidence not in ("weights", "contents") or pair.part:
            return pair
        home = self.pairs.get(parent(pair.reference))
        last = pair.reference.rpartition(".")[2]
        other = f"{home.port}.{last}".lstrip(".") if home is not None else last
        if other == pair.port or other not in self.port or last.isdigit():
            return pair
        words = f"{other} has this name, but other weights"
        return replace(pair, conflict=words, named=other)


def _nested(paths: list[str]) -> bool:
    """Whether each of them lies in the one before."""
    ordered = sorted(paths, key=len)
    return all(b.startswith(f"{a}.") or not a for a, b in pairwise(ordered))


def _share_a_parameter(one: Contents, other: Contents) -> bool:
    return bool({number for number, _ in one} & {number for number, _ in other})


def _last_roles(path: str) -> frozenset[tuple[str, ...]]:
    last = ".".join(path.split(".")[-1:])
    return frozenset(reading[-1:] for reading in readings(last)) if last else frozenset()


def _word(class_name: str) -> str:
    """`silu` of `SiLUActivation`: what a class is, without whose it is."""
    name = class_name.casefold()
    for noise in ("activation", "module", "layer"):
        name = name.replace(noise, "")
    return name
