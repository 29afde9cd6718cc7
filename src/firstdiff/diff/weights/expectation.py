"""Where a reference parameter ought to lie in the port: by its name, by what other layers do, by its siblings.

What a parameter *is* follows from its values; what it *should be* follows from these.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from math import prod
from typing import TYPE_CHECKING

from firstdiff.diff.aliases import readings
from firstdiff.diff.names import Segments, similarity
from firstdiff.diff.weights.naming import leaf_word, parse, same_names
from firstdiff.diff.weights.whole import Unit

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from firstdiff.diff.weights.match import Fixed, Match, Side

Key = tuple[Segments, str]
"""Template of the names, and which part: the same for all layers."""


class Expectation:
    """What the names, and the matches so far, say of where things belong."""

    def __init__(self, reference: Side, port: Side) -> None:
        self.reference, self.port = reference, port
        self.ours = [parse(p.name) for p in reference.parameters]
        self.theirs = [parse(p.name) for p in port.parameters]
        self.same = same_names(self.ours, self.theirs)
        self._by_template: dict[Segments, list[int]] = defaultdict(list)
        for number, name in enumerate(self.theirs):
            self._by_template[name.template].append(number)
        self.votes: dict[Key, Counter[Key]] = defaultdict(Counter)
        self.claims: dict[Key, Counter[Key]] = defaultdict(Counter)
        self._owners: dict[str, Counter[tuple[str, Fixed]]] = defaultdict(Counter)
        self._stack_axes: Counter[tuple[int, ...]] = Counter()

    def learn(self, matches: Iterable[Match]) -> None:
        """Take ``matches`` as what the other layers do."""
        for match in matches:
            ours, theirs = self.keys(match)
            self.votes[ours][theirs] += 1
            self.claims[theirs][ours] += 1
            owners = (
                self.reference.parameters[match.reference].owner,
                self.port.parameters[match.port].owner,
            )
            self._owners[owners[0]][owners[1], match.port_fixed] += 1
            if match.port_fixed:
                self._stack_axes[tuple(axis for axis, _ in match.port_fixed)] += 1

    def keys(self, match: Match) -> tuple[Key, Key]:
        """The match without its layer: what it is on either side."""
        return (
            (self.ours[match.reference].template, match.reference_part),
            (self.theirs[match.port].template, match.port_part),
        )

    def indices(self, match: Match) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Its layer on either side: indices of the name, then slices of a stack."""
        return (
            (*self.ours[match.reference].index, *(i for _, i in match.reference_fixed)),
            (*self.theirs[match.port].index, *(i for _, i in match.port_fixed)),
        )

    def named(self, number: int) -> Unit | None:
        """The port's unit of the same name, where both sides use the same words."""
        name = self.ours[number]
        template = self.same.get(name.template)
        return None if template is None else self._at(number, template, name.index)

    def namesake(self, unit: Unit) -> tuple[Segments, tuple[int, ...]] | None:
        """Template and index of the reference parameter that a port unit is named after."""
        name = self.theirs[unit.number]
        back = {theirs: ours for ours, theirs in self.same.items()}
        template = back.get(name.template)
        return None if template is None else (template, (*name.index, *(i for _, i in unit.fixed)))

    def expected(self, number: int, taken: set[Unit]) -> Unit | None:
        """Where reference parameter ``number`` ought to be; None when nothing says."""
        found = (
            self.named(number)
            or self._as_in_other_layers(number)
            or self._beside_siblings(number, taken)
        )
        return found or self._only_one_left(number, taken)

    def other_parts(self, pieces: Sequence[Match]) -> str:
        """The port's parameter, as in other layers, for the part that none of ``pieces`` holds; empty when unknown."""
        number = pieces[0].reference
        template = self.ours[number].template
        known = {m.reference_part for m in pieces}
        for (one, part), votes in self.votes.items():
            if one == template and part and part not in known:
                found = self._place_of(number, votes)
                if found and found not in {self.port.parameters[m.port].name for m in pieces}:
                    return found
        return ""

    def part_elsewhere(self, number: int) -> str:
        """Where, going by other layers, a fused port parameter should hold reference parameter ``number``."""
        return self._place_of(number, self.votes.get((self.ours[number].template, ""), Counter()))

    def _place_of(self, number: int, votes: Counter[Key]) -> str:
        for (template, part), _ in votes.most_common(1):
            for other in self._by_template.get(template, ()):
                if (
                    self.theirs[other].index == self.ours[number].index
                    or not self.theirs[other].index
                ):
                    return f"{self.port.parameters[other].name} {part}".strip()
        return ""

    def likeness(self, ours: Unit, theirs: Unit) -> float:
        """How well the names of two units agree, for choosing between equal values."""
        first, second = self.ours[ours.number], self.theirs[theirs.number]
        index = (
            (*first.index, *(i for _, i in ours.fixed)),
            (*second.index, *(i for _, i in theirs.fixed)),
        )
        return (
            4.0 * (self.same.get(first.template) == second.template)
            + 2.0 * (index[0] == index[1])
            + self.words(ours.number, theirs.number)
        )

    def words(self, ours: int, theirs: int) -> float:
        """How alike the names of two parameters are, 0 to 2, indices left out."""
        first, second = self.ours[ours].template, self.theirs[theirs].template
        one, other = ".".join(first[:-1]), ".".join(second[:-1])
        alias = bool(first and second and _roles(one) & _roles(other))
        return 0.5 * alias + similarity(".".join(first), ".".join(second))

    def _at(self, number: int, template: Segments, index: tuple[int, ...]) -> Unit | None:
        for other in self._by_template.get(template, ()):
            name = self.theirs[other]
            if name.index == index:
                return Unit(other)
            inner = len(index) - len(name.index)
            for here, rest in (
                ((index[:-inner], index[-inner:]), (index[inner:], index[:inner]))
                if inner > 0
                else ()
            ):
                unit = self._slice(number, other, rest) if here == name.index else None
                if unit is not None:
                    return unit
        return None

    def _slice(self, number: int, other: int, index: tuple[int, ...]) -> Unit | None:
        """The slice of a stack that ``index`` says, along the axes of other stacks, else the first ones."""
        shape = self.port.parameters[other].shape
        axes = next(
            (a for a, _ in self._stack_axes.most_common() if len(a) == len(index)),
            tuple(range(len(index))),
        )
        if len(shape) <= len(index) or any(
            a >= len(shape) or shape[a] <= i for a, i in zip(axes, index, strict=True)
        ):
            return None
        rest = prod(shape) // prod(shape[a] for a in axes)
        if rest != self.reference.parameters[number].size:
            return None
        return Unit(other, tuple(zip(axes, index, strict=True)))

    def _as_in_other_layers(self, number: int) -> Unit | None:
        name = self.ours[number]
        votes = self.votes.get((name.template, ""))
        if not votes:
            return None
        for (template, part), _ in votes.most_common():
            unit = self._at(number, template, name.index) if not part else None
            if unit is not None and self._size(unit) == self.reference.parameters[number].size:
                return unit
        return None

    def _beside_siblings(self, number: int, taken: set[Unit]) -> Unit | None:
        parameter = self.reference.parameters[number]
        for (owner, fixed), _ in self._owners[parameter.owner].most_common():
            for other, candidate in enumerate(self.port.parameters):
                if candidate.owner != owner or leaf_word(candidate.leaf) != leaf_word(
                    parameter.leaf
                ):
                    continue
                for unit in (Unit(other, fixed), Unit(other)):
                    if unit not in taken and self._size(unit) == parameter.size:
                        return unit
        return None

    def _only_one_left(self, number: int, taken: set[Unit]) -> Unit | None:
        parameter = self.reference.parameters[number]
        used = {unit.number for unit in taken}
        left = [
            Unit(other)
            for other, candidate in enumerate(self.port.parameters)
            if other not in used
            and candidate.size == parameter.size
            and (leaf_word(candidate.leaf) == "bias") == (leaf_word(parameter.leaf) == "bias")
        ]
        return left[0] if len(left) == 1 and self.words(number, left[0].number) > 0.3 else None

    def _size(self, unit: Unit) -> int:
        shape = self.port.parameters[unit.number].shape
        if any(axis >= len(shape) or index >= shape[axis] for axis, index in unit.fixed):
            return -1
        return prod(shape) // prod(shape[axis] for axis, _ in unit.fixed)


def _roles(path: str) -> frozenset[Segments]:
    return readings(path) if path else frozenset()
