"""What the weights of two traces say before any activation is compared: an audit, and a map of the modules."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from firstdiff.diff.align import DEFAULT_MATCHERS
from firstdiff.diff.matchers import match_only_candidates
from firstdiff.diff.weights.audit import Audit, judge
from firstdiff.diff.weights.mapbuilder import module_map
from firstdiff.diff.weights.match import Side
from firstdiff.diff.weights.matcher import map_matcher, match_graph, weights_matcher
from firstdiff.diff.weights.search import search
from firstdiff.diff.weights.traced import traced_modules, traced_side

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from firstdiff.diff.modules import Matcher
    from firstdiff.diff.weights.modulemap import ModuleMap
    from firstdiff.traces import Trace
    from firstdiff.traces.parameters import Parameter


@dataclass(frozen=True)
class Weighing:
    """What was found out about the weights."""

    audit: Audit
    """A verdict for every parameter."""
    map: ModuleMap
    """Which module is which."""


def weigh(
    reference: Trace, port: Trace, parameters: Sequence[Parameter] = ()
) -> Weighing | str | None:
    """Audit and map from what two traces keep of the weights; None where one keeps nothing, a sentence on failure.

    ``parameters`` are the port's own, with values, where its model is at hand.
    """
    try:
        ours, theirs = traced_side(reference), traced_side(port)
        if ours is None or theirs is None or not len(ours) or not len(theirs):
            return None
        if not _comparable(ours, theirs):
            return (
                f"the weights were not compared: {_dtype(theirs)} against digests of {_dtype(ours)}; "
                f"capture with --weights"
            )
        found = search(ours, _with_values(theirs, parameters))
        modules = module_map(found, traced_modules(reference), traced_modules(port))
        return Weighing(judge(found), modules)
    except (
        ArithmeticError,
        AssertionError,
        AttributeError,
        LookupError,
        MemoryError,
        TypeError,
        ValueError,
    ) as error:
        # Weights of a kind that the search was not made for must not cost the comparison.
        return f"the weights were not compared ({type(error).__name__}: {error})"


def matchers_of(weighing: Weighing | None, distrusted: Collection[str] = ()) -> tuple[Matcher, ...]:
    """The matchers of `align`, strongest evidence first: weights, then names, the call graph, and what is left.

    ``distrusted`` are modules of the reference that weights must not pair, nor what lies in them.
    """
    if weighing is None:
        return DEFAULT_MATCHERS
    weighed = _without(weighing.map, distrusted)
    return (
        weights_matcher(weighed),
        map_matcher(weighed, ("name", "graph")),
        *(matcher for matcher in DEFAULT_MATCHERS if matcher is not match_only_candidates),
        map_matcher(weighed, ("contents", "weights", "alias", "only one")),
        match_graph,
        match_only_candidates,
    )


def _without(found: ModuleMap, distrusted: Collection[str]) -> ModuleMap:
    if not distrusted:
        return found
    inside = tuple(f"{path}." for path in distrusted)
    kept = [p for p in found.pairs if p.reference not in distrusted]
    return replace(found, pairs=tuple(p for p in kept if not p.reference.startswith(inside)))


def _with_values(side: Side, parameters: Sequence[Parameter]) -> Side:
    """``side`` with the values of ``parameters``, by name."""
    known = {p.name: p for p in parameters}
    given = (known.get(p.name, p) for p in side.parameters)
    same = [
        one if one.shape == p.shape and one.dtype == p.dtype else p
        for one, p in zip(given, side.parameters, strict=True)
    ]
    return Side(tuple(same), side.prints)


def _comparable(ours: Side, theirs: Side) -> bool:
    """Whether some parameters of both sides were hashed at one grain."""
    grains = [
        {grain for known in side.prints if not known.constant for grain in known.hashes}
        for side in (ours, theirs)
    ]
    return bool(grains[0] & grains[1])


def _dtype(side: Side) -> str:
    return next((p.dtype for p in side.parameters if p.kind == "parameter"), "nothing")
