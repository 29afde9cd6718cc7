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
    from firstdiff.diff.weights.modulemap import ModuleMap, Modules
    from firstdiff.diff.weights.verdict import Verdict
    from firstdiff.traces import Activation, Trace
    from firstdiff.traces.parameters import Parameter

_PLAIN = frozenset({"equal", "transposed", "arranged"})


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
    side = traced_side(port)
    if side is None:
        return None
    return _weigh(reference, _with_values(side, parameters), traced_modules(port))


def weigh_model(
    reference: Trace, parameters: Sequence[Parameter], port: Sequence[Activation]
) -> Weighing | str | None:
    """`weigh` for a port that was not captured: ``port`` is what it would record. Reads all its ``parameters``."""
    modules = {a.key.path: a.class_name for a in reversed(port)}
    return _weigh(reference, tuple(parameters), tuple(reversed(modules.items())))


def _weigh(
    reference: Trace, port: Side | Sequence[Parameter], modules: Modules
) -> Weighing | str | None:
    try:
        ours = traced_side(reference)
        if ours is None or not len(ours) or not len(port):
            return None
        if isinstance(port, Side) and not _comparable(ours, port):
            return (
                f"the weights were not compared: {_dtype(port)} against digests of {_dtype(ours)}; "
                f"capture with --weights"
            )
        found = search(ours, port)
        paired = module_map(found, traced_modules(reference), modules)
        return Weighing(_with_exchanges(judge(found), paired), paired)
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


def _with_exchanges(audit: Audit, found: ModuleMap) -> Audit:
    """``audit`` with modules that hold each other's weights going by their names, where parameters' names were silent.

    Activations tell afterwards whether the weights are exchanged or the names.
    """
    by_port = {p.port: p for p in found.pairs if p.evidence == "weights" and not p.part}
    mutual = {
        p.reference: p
        for p in by_port.values()
        if p.named and p.named in by_port and by_port[p.named].named == p.port
    }
    verdicts = tuple(
        _exchanged(v, mutual[v.module].named)
        if v.reference and v.module in mutual and v.finding in _PLAIN
        else v
        for v in audit.verdicts
    )
    return Audit(verdicts, audit.parameters, audit.found)


def _exchanged(verdict: Verdict, named: str) -> Verdict:
    return replace(
        verdict,
        status="wrong",
        finding="exchanged",
        words=f"{verdict.port} equals the reference's {verdict.reference}, though {named} has its name",
        remedy=f"load {verdict.reference} into {named}",
    )


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
