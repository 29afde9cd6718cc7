"""The last evidence of the map: modules whose results are equal in two traces, where weights, call graph and names
said nothing. It needs values, so it is apart from what is built from parameters alone."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING

from firstdiff.diff.call_match import CallPair, match_calls
from firstdiff.diff.calls import calls_of
from firstdiff.diff.floor import Floors, coarser, run_dtype
from firstdiff.diff.judge import WARN
from firstdiff.diff.value_index import ValueIndex
from firstdiff.diff.value_match import ValueMatches
from firstdiff.diff.weights.modulemap import CONFIDENCE, MapPair, ModuleMap

if TYPE_CHECKING:
    from collections.abc import Iterable

    from firstdiff.traces import Trace
    from firstdiff.traces.schema import Activation


def with_values(found: ModuleMap, reference: Trace, port: Trace) -> ModuleMap:
    """``found`` with pairs of modules that it left over and whose results are equal, one module on either side.

    What was paired because nothing else was left is asked again. A function that does the work of several modules is
    left out: a map pairs paths.
    """
    guesses = [pair for pair in found.pairs if pair.evidence == "only one"]
    ours = _of(reference, (*found.reference_only, *(pair.reference for pair in guesses)))
    theirs = _of(port, (*found.port_only, *(pair.port for pair in guesses)))
    if not ours or not theirs:
        return found
    dtype = coarser(run_dtype(reference.activations), run_dtype(port.activations))
    floors = Floors.of_trace(reference, dtype)

    def tolerance(one: Activation, other: Activation) -> float:
        norm = one.digest.rms if one.digest is not None else 1.0
        return WARN * floors.of(one, other, norm, prod(one.shape)).relative

    values = ValueMatches(ValueIndex(reference, ours), ValueIndex(port, theirs), tolerance)
    calls = match_calls(calls_of(ours), calls_of(theirs), values)
    made = _lone(pair for pair in calls if _results_are_equal(pair))
    if not made:
        return found
    order = {a.key.path: a.order for a in reversed(reference.activations)}
    pairs = [MapPair(one, other, "values", CONFIDENCE["values"]) for one, other in made]
    paired = {pair.reference for pair in pairs}, {pair.port for pair in pairs}
    wrong = [p for p in guesses if p.reference in paired[0] or p.port in paired[1]]
    kept = [pair for pair in found.pairs if pair not in wrong]
    left = (*found.reference_only, *(p.reference for p in wrong))
    free = (*found.port_only, *(p.port for p in wrong))
    return replace(
        found,
        pairs=tuple(sorted((*kept, *pairs), key=lambda p: order.get(p.reference, 0))),
        reference_only=tuple(path for path in left if path not in paired[0]),
        port_only=tuple(path for path in free if path not in paired[1]),
    )


def _of(trace: Trace, paths: Iterable[str]) -> list[Activation]:
    wanted = {path for path in paths if path}
    return [a for a in trace.activations if a.key.path in wanted and a.place is not None]


def _results_are_equal(pair: CallPair) -> bool:
    """All results of either side: attention weights are often returned by one of them alone."""
    results = [len(call.at("output")) for call in (pair.reference, pair.port)]
    equal = sum(one.key.site == "output" for one, _ in pair.equal)
    return equal > 0 and equal in results


def _lone(pairs: Iterable[CallPair]) -> list[tuple[str, str]]:
    """Paths that are paired with one path, on both sides."""
    ours: dict[str, set[str]] = defaultdict(set)
    theirs: dict[str, set[str]] = defaultdict(set)
    for pair in pairs:
        ours[pair.reference.path].add(pair.port.path)
        theirs[pair.port.path].add(pair.reference.path)
    return [
        (one, next(iter(others)))
        for one, others in ours.items()
        if len(others) == 1 and len(theirs[next(iter(others))]) == 1
    ]
