"""Which activation of the port is which of the reference. Nothing is dropped: what has no partner is a row too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from firstdiff.diff.candidates import best_candidates
from firstdiff.diff.grouped import match_grouped
from firstdiff.diff.leaves import LeafEvidence, pair_leaves
from firstdiff.diff.mapping import PathMap
from firstdiff.diff.matchers import (
    match_aliases,
    match_names,
    match_only_candidates,
    match_roots,
    match_tied_heads,
)
from firstdiff.diff.modules import Evidence, Matcher, ModulePair, modules_of, run_matchers

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from firstdiff.traces.schema import Activation

DEFAULT_MATCHERS: tuple[Matcher, ...] = (
    match_roots,
    match_names,
    match_aliases,
    match_tied_heads,
    match_grouped,
    match_only_candidates,
)
"""In order of evidence, after the user's map."""


@dataclass(frozen=True)
class Pair:
    """One activation of the reference and the same one of the port."""

    reference: Activation
    """The reference's."""
    port: Activation
    """The port's."""
    evidence: Evidence
    """What pairing their modules rests on."""
    leaf_evidence: LeafEvidence = "name"
    """What pairing these two tensors of the module rests on."""
    hint: str = ""
    """What a person should know if they differ: another way to lay one on the other that fits."""
    confidence: float = 1.0
    """How sure it is that they are the same, 0 to 1."""
    conflict: str = ""
    """What contradicts the pair: names that say something else."""


@dataclass(frozen=True)
class Unmatched:
    """An activation without a partner."""

    side: Literal["reference", "port"]
    """Which trace it is in; `reference` means that the port lacks it."""
    activation: Activation
    """The activation."""
    candidate: Activation | None = None
    """The unpaired activation of the other side that resembles it most, or None."""
    likeness: float = 0.0
    """How much, 0 to 1, by name and size."""


@dataclass(frozen=True)
class Alignment:
    """Every activation of both traces, paired or not."""

    pairs: tuple[Pair, ...]
    """In the reference's execution order."""
    unmatched: tuple[Unmatched, ...]
    """The reference's in its order, then the port's in its own."""
    ignored: int = 0
    """Activations that the user's map leaves out, both sides together."""
    notes: tuple[str, ...] = ()
    """Sentences on modules of one side that are compared with several of the other."""
    again: int = 0
    """Activations of the port that hold a value which is paired already: they are no extra ones."""
    valued: bool = False
    """Whether values were asked for partners."""


def align(
    reference: Sequence[Activation],
    port: Sequence[Activation],
    *,
    path_map: PathMap | None = None,
    matchers: Iterable[Matcher] = DEFAULT_MATCHERS,
) -> Alignment:
    """Pair ``reference`` with ``port`` by module and call.

    Raises:
        OptionError: an entry of ``path_map`` matches nothing.
    """
    path_map = path_map or PathMap()
    path_map.check({a.key.path for a in reference}, {a.key.path for a in port})
    ours = [a for a in reference if not path_map.ignores(a.key.path)]
    theirs = [a for a in port if not path_map.ignores(a.key.path)]
    modules = run_matchers((path_map.match, *matchers), modules_of(ours), modules_of(theirs))
    pairs = _pair_tensors(modules)
    paired = {id(pair.reference) for pair in pairs} | {id(pair.port) for pair in pairs}
    missing = [a for a in ours if id(a) not in paired]
    extra = [a for a in theirs if id(a) not in paired]
    ignored = len(reference) + len(port) - len(ours) - len(theirs)
    return Alignment(pairs, leftovers(missing, extra), ignored)


def leftovers(missing: Sequence[Activation], extra: Sequence[Activation]) -> tuple[Unmatched, ...]:
    """Activations of the reference and of the port without a partner, each with its best candidate."""
    return (*_leftover("reference", missing, extra), *_leftover("port", extra, missing))


def _pair_tensors(modules: Iterable[ModulePair]) -> tuple[Pair, ...]:
    pairs = [
        Pair(
            one,
            other,
            module.evidence,
            leaf,
            confidence=module.certainty,
            conflict=module.conflict,
        )
        for module in modules
        for one, other, leaf in pair_leaves(module.reference, module.port)
    ]
    return tuple(sorted(pairs, key=lambda pair: pair.reference.order))


def _leftover(
    side: Literal["reference", "port"], found: Sequence[Activation], others: Sequence[Activation]
) -> list[Unmatched]:
    candidates = best_candidates(found, others)
    return [Unmatched(side, a, *candidates[a.order]) for a in found]
