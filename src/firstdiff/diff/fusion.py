"""Modules of one side that are one module on the other: fused projections, batched experts. Who may belong to whom.

By weights, by what families call them, else by size alone; whether they do is decided on values (`granularity`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from math import prod
from typing import TYPE_CHECKING, Literal

from firstdiff.diff.aliases import GROUPS
from firstdiff.diff.leaves import kind_of
from firstdiff.diff.names import Segments, normalise, split

if TYPE_CHECKING:
    from firstdiff.diff.modules import Evidence, Module
    from firstdiff.traces.schema import Activation

FUSED = {
    "attention.qkv": ("attention.q", "attention.k", "attention.v"),
    "attention.kv": ("attention.k", "attention.v"),
    "mlp.gate_up": ("mlp.gate", "mlp.up"),
}
"""Roles of `aliases.GROUPS` that are one module on one side, and what they are made of."""
_NUMBERED = {
    normalise(name): name
    for name in (*(name for names in GROUPS.values() for name in names), "fc1", "fc2")
    if len(normalise(name)) == 2
}
_MOST_MEMBERS = 4
"""By size alone, at most so many neighbours are one module."""


@dataclass(frozen=True)
class Fusion:
    """One module of one side, and those of the other that it may hold."""

    whole: Module
    """The fused module."""
    members: tuple[Module, ...]
    """What it is made of."""
    side: Literal["reference", "port"]
    """Where the fused one is."""
    evidence: Evidence
    """What it rests on; `values` needs agreement of the elements."""
    ordered: bool = False
    """Whether the members are numbered: they lie in that order, or they are wrong."""
    numbers: tuple[int, ...] = ()
    """Of experts that are given their own tokens alone, while the whole is [experts, ...]: which they are."""


@dataclass(frozen=True)
class Sides:
    """The modules that are not paired, seen from the side with the fused ones."""

    wholes: Sequence[Module]
    """Of the side that is looked at for fused modules."""
    parts: Sequence[Module]
    """Of the other."""
    counterpart: Mapping[str, str]
    """Path on the other side of each paired module of the first."""
    side: Literal["reference", "port"]
    """Which side the first is."""


def fusions(sides: Sides, by_weights: Iterable[tuple[str, str]] = ()) -> list[Fusion]:
    """Every fusion that may be, the best evidence first; a module may be in several of them.

    ``by_weights`` are pairs (fused path, path of a part on the other side) that share parameters.
    """
    return [*_by_weights(sides, by_weights), *_by_roles(sides), *_by_index(sides), *_by_size(sides)]


def _by_weights(sides: Sides, pairs: Iterable[tuple[str, str]]) -> list[Fusion]:
    groups: dict[str, list[str]] = defaultdict(list)
    for whole, part in pairs:
        if _digits(whole) == _digits(part):  # sharing weights with several layers tells nothing
            groups[whole].append(part)
    wholes = {m.path: m for m in sides.wholes if m.method == "call"}
    parts = {m.path: m for m in sides.parts if m.method == "call"}
    return [
        Fusion(wholes[path], tuple(_as_run(parts[p] for p in found)), sides.side, "weights")
        for path, found in groups.items()
        if path in wholes and len(found) > 1 and all(p in parts for p in found)
    ]


def _as_run(modules: Iterable[Module]) -> list[Module]:
    """In the order in which they run."""
    return sorted(modules, key=lambda module: module.activations[0].order)


def _by_roles(sides: Sides) -> list[Fusion]:
    found = []
    for whole in sides.wholes:
        for role in _roles(whole.path) & FUSED.keys():
            made = (_with_roles(FUSED[role], near) for near in _near(whole, sides))
            members = next((m for m in made if m), ())
            if members:
                found.append(Fusion(whole, members, sides.side, "alias"))
    return found


def _with_roles(roles: Sequence[str], near: Sequence[Module]) -> tuple[Module, ...]:
    """The one module of ``near`` for each role; () where a role has none or several."""
    groups = [[m for m in near if role in _roles(m.path)] for role in roles]
    return tuple(group[0] for group in groups) if all(len(g) == 1 for g in groups) else ()


def _by_index(sides: Sides) -> list[Fusion]:
    """Members `experts.0.w1`, `experts.1.w1`, ... and one module of the size of them all."""
    stacks: dict[tuple[Segments, Segments], dict[int, Module]] = defaultdict(dict)
    for module in sides.parts:
        path = _segments(module.path)
        places = [place for place, segment in enumerate(path) if segment.isdigit()]
        for place in places[-1:]:  # the innermost number: the expert's, not the layer's
            stacks[path[:place], path[place + 1 :]][int(path[place])] = module
    by_digits: dict[tuple[str, ...], list[dict[int, Module]]] = defaultdict(list)
    for (head, tail), stack in stacks.items():
        by_digits[tuple(s for s in (*head, *tail) if s.isdigit())].append(stack)
    found = []
    for whole in sides.wholes:
        size = _size(whole)
        for stack in by_digits.get(_digits(whole.path), ()) if size else ():
            members = tuple(stack[n] for n in sorted(stack))
            complete = len(stack) > 1 and set(stack) == set(range(len(stack)))
            if size != sum(map(_size, members)):
                found += _routed(whole, stack, sides)
            elif complete:
                alike = _last(whole.path) & _last(members[0].path)
                evidence: Evidence = "alias" if alike else "values"
                found.append(Fusion(whole, members, sides.side, evidence, ordered=True))
    return sorted(found, key=lambda fusion: fusion.evidence)  # those of equal names first


def _routed(whole: Module, stack: Mapping[int, Module], sides: Sides) -> list[Fusion]:
    """Experts of equal names, each given some of the tokens; those that were given none did not run."""
    result = only(whole.outputs())
    numbers = tuple(sorted(stack))
    members = tuple(stack[n] for n in numbers)
    results = [only(m.outputs()) for m in members]
    if result is None or len(result.shape) < 3 or result.shape[0] <= numbers[-1]:
        return []
    named = _last(whole.path) & _last(members[0].path) and "expert" in members[0].path.casefold()
    rows = all(
        r is not None and len(r.shape) == 2 and r.shape[-1] == result.shape[-1] for r in results
    )
    if not named or not rows:
        return []
    return [Fusion(whole, members, sides.side, "alias", ordered=True, numbers=numbers)]


def _last(path: str) -> set[str]:
    """The last name of ``path`` without its number, and the roles that it has."""
    names = [segment for segment in _segments(path) if not segment.isdigit()]
    return {*names[-1:], *_roles(path)}


def _by_size(sides: Sides) -> list[Fusion]:
    """Unpaired neighbours whose results are together as large as one unpaired module's."""
    found = []
    for whole in sides.wholes:
        near = next((n for n in _near(whole, sides) if len(n) > 1), [])
        size, sizes = _size(whole), [_size(m) for m in near]
        for count in range(2, _MOST_MEMBERS + 1):
            for start in range(len(near) - count + 1) if size else ():
                if sum(sizes[start : start + count]) == size:
                    members = tuple(near[start : start + count])
                    found.append(Fusion(whole, members, sides.side, "values"))
    return found


def _near(whole: Module, sides: Sides) -> Iterator[list[Module]]:
    """Unpaired modules of the other side and of the same layer, in the order in which they run: those below the
    counterpart of the nearest module around ``whole``, then of the next one around that, at last all."""
    digits, home = _digits(whole.path), whole.parent
    alike = [m for m in sides.parts if m.method == whole.method and _digits(m.path) == digits]
    alike = _as_run(filter(_size, alike))
    while home:
        other = split(sides.counterpart.get(home, ""))
        if other:
            yield [m for m in alike if split(m.path)[: len(other)] == other]
        home = home.rpartition(".")[0]
    yield alike


def _digits(path: str) -> tuple[str, ...]:
    return tuple(segment for segment in _segments(path) if segment.isdigit())


@cache
def _segments(path: str) -> Segments:
    """`normalise`, but `w1` and `fc1` at the end are names, not numbered ones."""
    segments = normalise(path)
    name = _NUMBERED.get(segments[-2:])
    return segments if name is None else (*segments[:-2], name)


@cache
def _roles(path: str) -> frozenset[str]:
    """Roles of the last segment of ``path``, whatever is around it."""
    last = _segments(path)[-1:]
    return frozenset(
        role for role, names in GROUPS.items() if any(_segments(n) == last for n in names)
    )


def _size(module: Module) -> int:
    """Elements of its first result; 0 where it has several, or none, or no floats."""
    result = only(module.outputs())
    return 0 if result is None else prod(result.shape)


def only(activations: Sequence[Activation]) -> Activation | None:
    """The one floating-point tensor among ``activations``; None where there are more, or none."""
    found = [a for a in activations if kind_of(a) == "float"]
    return found[0] if len(found) == 1 else None
