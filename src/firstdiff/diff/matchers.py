"""Matchers that read names. Later kinds of evidence (equal weights, call graph, values) get files of their own."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from math import prod

from firstdiff.diff.aliases import readings
from firstdiff.diff.modules import Evidence, Module, ModulePair
from firstdiff.diff.names import REPEATED, Segments, normalise, split

_DEEPEST_WRAPPER = 3
"""Wrappers (`model.`, `params.params.`, a root class) are at most so many segments deep."""

Readings = Callable[[str], Iterable[Segments]]
Prefixes = tuple[Segments, Segments]


def match_roots(
    reference: Sequence[Module], port: Sequence[Module], _pairs: Sequence[ModulePair]
) -> list[ModulePair]:
    """The outermost modules are the same when their results have equal sizes, whatever they are called.

    A port without its head has another root: it is left to the matchers of names.
    """
    first = [module for module in reference if not module.path]
    second = {module.method: module for module in port if not module.path}
    return [
        ModulePair(root, second[root.method], "name")
        for root in first
        if root.method in second and _same_sizes(root, second[root.method])
    ]


def _same_sizes(one: Module, other: Module) -> bool:
    sizes = [{prod(a.shape) for a in module.outputs()} for module in (one, other)]
    return not all(sizes) or bool(sizes[0] & sizes[1])


def match_names(
    reference: Sequence[Module], port: Sequence[Module], _pairs: Sequence[ModulePair]
) -> list[ModulePair]:
    """Equal paths up to separators, index style and wrappers: first with stacks as they are named, then unified."""
    pairs = match_readings(reference, port, lambda path: (split(path),), "name")
    left, right = _remaining(reference, port, pairs)
    return pairs + match_readings(left, right, lambda path: (normalise(path),), "name", pairs)


def match_aliases(
    reference: Sequence[Module], port: Sequence[Module], pairs: Sequence[ModulePair]
) -> list[ModulePair]:
    """Equal roles under the alias table, where that leaves one choice on both sides."""
    return match_readings(reference, port, readings, "alias", pairs)


def match_tied_heads(
    reference: Sequence[Module], port: Sequence[Module], _pairs: Sequence[ModulePair]
) -> list[ModulePair]:
    """A head of one side and the `attend` method of the other's embedding: how JAX spells a head with tied weights."""
    made = []
    for heads, embeddings, swap in ((reference, port, False), (port, reference, True)):
        head = [
            m
            for m in heads
            if m.method == "call" and any(r[-1:] == ("head",) for r in readings(m.path))
        ]
        tied = [module for module in embeddings if module.method == "attend"]
        if len(head) == len(tied) == 1 and _plausible(head[0], tied[0]):
            made.append(ModulePair(*((tied[0], head[0]) if swap else (head[0], tied[0])), "alias"))
    return made


def match_only_candidates(
    reference: Sequence[Module], port: Sequence[Module], pairs: Sequence[ModulePair]
) -> list[ModulePair]:
    """The one unpaired child of a paired parent on either side, when their results have equal sizes."""
    parents = {(pair.reference.path, pair.reference.method): pair.port.path for pair in pairs}
    children: dict[tuple[str, str], list[Module]] = defaultdict(list)
    for module in port:
        children[module.parent, module.method].append(module)
    orphans: dict[tuple[str, str], list[Module]] = defaultdict(list)
    for module in reference:
        if module.path:
            orphans[module.parent, module.method].append(module)
    found = []
    for (parent, method), (only, *others) in orphans.items():
        home = parents.get((parent, method))
        rivals = [m for m in children.get((home, method), []) if m.path] if home is not None else []
        if not others and len(rivals) == 1 and _plausible(only, rivals[0]):
            found.append(ModulePair(only, rivals[0], "only candidate"))
    return found


def _plausible(one: Module, other: Module) -> bool:
    return bool(one.outputs()) and bool(other.outputs()) and _same_sizes(one, other)


def match_readings(
    reference: Sequence[Module],
    port: Sequence[Module],
    read: Readings,
    evidence: Evidence,
    known: Sequence[ModulePair] = (),
) -> list[ModulePair]:
    """Pair modules whose readings are equal once the wrappers, found by voting, are taken off.

    ``known`` pairs vote as well. Rounds go on until one finds nothing: `model.norm` and `lm_head` need two.
    """
    pairs: list[ModulePair] = []
    left, right = list(reference), list(port)
    voters = [(pair.reference, pair.port) for pair in known]
    while left and right:
        prefixes = _vote(left, right, read, voters, first=bool(voters) or not (pairs or known))
        fresh = _unique(left, right, read, prefixes) if prefixes is not None else []
        if not fresh and not voters:
            return pairs
        pairs += [ModulePair(one, other, evidence) for one, other in fresh]
        left, right = _remaining(left, right, pairs)
        voters = []
    return pairs


def _remaining(
    reference: Iterable[Module], port: Iterable[Module], pairs: Sequence[ModulePair]
) -> tuple[list[Module], list[Module]]:
    ours, theirs = {id(p.reference) for p in pairs}, {id(p.port) for p in pairs}
    return [m for m in reference if id(m) not in ours], [m for m in port if id(m) not in theirs]


def _wrappers(reading: Segments) -> Iterable[tuple[Segments, Segments]]:
    """(wrapper, rest) for each wrapper that ``reading`` may have: outer segments, never a member of a stack.

    Flax numbers what has no name, so the root may be `Qwen2Model_0`.
    """
    for depth in range(min(_DEEPEST_WRAPPER, len(reading)) + 1):
        if any(
            s.isdigit() and (s != "0" or r in REPEATED)
            for r, s in pairwise(("layers", *reading[:depth]))
        ):
            return
        if reading[depth:] or not depth:
            yield reading[:depth], reading[depth:]


def _vote(
    reference: Sequence[Module],
    port: Sequence[Module],
    read: Readings,
    voters: Sequence[tuple[Module, Module]],
    *,
    first: bool,
) -> Prefixes | None:
    """The wrappers (reference's, port's) under which most modules have equal names; the shortest among equals.

    Two different wrappers at once need half of the smaller side: a lone `encoder.norm` is no `decoder.norm`.
    """
    rests: dict[tuple[str, Segments], set[Segments]] = defaultdict(set)
    everyone = [*port, *(other for _, other in voters)]
    for module in everyone:
        for reading in read(module.path):
            for wrapper, rest in _wrappers(reading):
                rests[module.method, rest].add(wrapper)
    votes: Counter[Prefixes] = Counter()
    for module in [*reference, *(one for one, _ in voters)]:
        ballots = {
            (wrapper, other)
            for reading in read(module.path)
            for wrapper, rest in _wrappers(reading)
            for other in rests.get((module.method, rest), ())
        }
        votes.update(ballots)
    quorum = 0.5 * (min(len(reference), len(port)) + len(voters)) if first else float("inf")
    allowed = [(p, n) for p, n in votes.items() if not all(p) or p[0] == p[1] or n >= quorum]
    if not allowed:
        return None
    return min(allowed, key=lambda item: (-item[1], len(item[0][0]) + len(item[0][1]), item[0]))[0]


def _unique(
    reference: Sequence[Module], port: Sequence[Module], read: Readings, prefixes: Prefixes
) -> list[tuple[Module, Module]]:
    """Pairs that are the only choice on both sides; a pair made narrows the choice of the rest."""
    ours, theirs = (
        _by_rest(side, read, prefix)
        for side, prefix in zip((reference, port), prefixes, strict=True)
    )
    choices: dict[int, set[int]] = defaultdict(set)
    for key, ones in ours.items():
        for one in ones:
            choices[one] |= {
                other for other in theirs.get(key, ()) if _fits_root(reference[one], port[other])
            }
    pairs = []
    for one, other in _narrow({one: options for one, options in choices.items() if options}):
        pairs.append((reference[one], port[other]))
    return pairs


def _fits_root(one: Module, other: Module) -> bool:
    """Whether a wrapper (`model`) may be the other side's root: their results have equal sizes."""
    return bool(one.path) == bool(other.path) or _same_sizes(one, other)


def _by_rest(
    modules: Sequence[Module], read: Readings, prefix: Segments
) -> dict[tuple[str, Segments], set[int]]:
    found: dict[tuple[str, Segments], set[int]] = defaultdict(set)
    for number, module in enumerate(modules):
        for reading in read(module.path):
            if reading[: len(prefix)] == prefix:
                found[module.method, reading[len(prefix) :]].add(number)
    return found


def _narrow(choices: dict[int, set[int]]) -> list[tuple[int, int]]:
    """Pairs forced by ``choices`` (reference -> possible ports), each choice and each rival counted."""
    made: list[tuple[int, int]] = []
    while True:
        rivals = Counter(option for options in choices.values() for option in options)
        forced = [(one, next(iter(o))) for one, o in choices.items() if len(o) == 1]
        fresh = [
            (one, other) for one, other in forced if rivals[other] == 1 or _settled(other, choices)
        ]
        if not fresh:
            return made
        made += fresh
        gone = {other for _, other in fresh}
        done = {one for one, _ in fresh}
        choices = {
            o: options - gone for o, options in choices.items() if o not in done and options - gone
        }


def _settled(port: int, choices: dict[int, set[int]]) -> bool:
    """Whether exactly one reference module can only be ``port``, while its rivals have other choices."""
    return sum(1 for options in choices.values() if options == {port}) == 1
