"""Below the module that a bisection found: its weights, or the function and the line that are wrong, on both sides.

Apart from the search, because it looks deeper than modules: one more run of the port, inside that module alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from glob import escape
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from firstdiff.diff.floor import run_dtype
from firstdiff.diff.inside.answer import short
from firstdiff.diff.inside.calls import calls_of
from firstdiff.diff.inside.scope import Scope
from firstdiff.diff.inside.zoomed import zoomed
from firstdiff.diff.names import wrapper_prefix
from firstdiff.diff.planting import planting
from firstdiff.diff.weights.blame import outcomes
from firstdiff.diff.weights.evidence import Weighing
from firstdiff.diff.weights.report import grouped, sentence
from firstdiff.inner_runs import reference_inside
from firstdiff.planted_runs import run_planted
from firstdiff.recording import as_subject
from firstdiff.tracer.selection import Selection
from firstdiff.traces import open_trace
from firstdiff.traces.errors import FirstdiffError

if TYPE_CHECKING:
    from firstdiff.diff.align import Pair
    from firstdiff.diff.inside.answer import Zoom
    from firstdiff.diff.inside.calls import FunctionCall
    from firstdiff.diff.inside.place import Sides
    from firstdiff.diff.locate import Finding
    from firstdiff.diff.row import Row
    from firstdiff.partial_runs import PartialRuns
    from firstdiff.traces import Activation, Trace


@dataclass(frozen=True)
class Spotted:
    """What the module that was found holds."""

    finding: Finding | None
    """The first fault; None where no value inside the block is wrong."""
    rows: tuple[Row, ...]
    """Rows of its block, on right inputs."""
    trace: Path
    """The run that they are of."""


def wrong_weights(
    weighing: Weighing | str | None, finding: Finding | None, rows: Sequence[Row]
) -> str:
    """What is wrong with the weights of the module whose result is the first wrong value; empty where nothing is."""
    if finding is None or finding.where != "inside" or not isinstance(weighing, Weighing):
        return ""
    audit = weighing.audit
    here = next(r.key.path for r in rows if r.activation.order == finding.order)
    found = outcomes(audit, rows, finding.order)
    guilty = [audit.verdicts[n] for n, outcome in found.items() if outcome == "cause"]
    own = [v for v in guilty if v.module == here]
    return "; ".join(sentence(group) for group in grouped(own)[:3])


def paths_of(
    region: str, pairs: Sequence[Pair], ours: Trace, listing: Sequence[Activation]
) -> Sides:
    """Paths of the module ``region`` on both sides, of which a run may have recorded a part only."""
    if not region:
        return _tops(ours.activations), _tops(listing)
    prefix = wrapper_prefix(a.key.path for a in ours.activations)
    found = [p for p in pairs if p.reference.key.path.removeprefix(prefix) == region]
    return (
        tuple(dict.fromkeys(pair.reference.key.path for pair in found)),
        tuple(dict.fromkeys(pair.port.key.path for pair in found)),
    )


def _tops(activations: Sequence[Activation]) -> tuple[str, ...]:
    """The root's path, and those of its wrappers."""
    prefix = wrapper_prefix(a.key.path for a in activations).rstrip(".")
    roots = [a.key.path for a in activations if a.key.path and a.key.path == a.class_name]
    return tuple(dict.fromkeys(("", prefix, *roots)))


def port_inside(
    runs: PartialRuns, ours: Trace, spotted: Spotted, paths: Sequence[str], folder: Path
) -> Trace:
    """The port with the reference's values at every module of the block, looking into the one at ``paths``.

    Nothing outside the block is recorded. Close it.
    """
    with open_trace(spotted.trace) as theirs:
        plan = planting("port", spotted.rows, ours, theirs)
        globs = runs.globs((a.key for a in theirs.activations), *paths)
        selection = Selection(globs, level="op", inside=tuple(map(escape, paths)))
        path = folder / "inside-port.h5"
        runs.runs += 1
        run_planted(
            runs.subject, runs.inputs, plan, path, runs.mode, runs.exact, selection=selection
        )
    return open_trace(path)


def look_inside(
    runs: PartialRuns,
    ours: Trace,
    spotted: Spotted,
    sides: Sides,
    folder: Path,
    progress: Callable[[str], None],
) -> Zoom | str:
    """Which function of the module is wrong, on both sides; a sentence where the reference's cannot be known.

    The reference's functions are those in its trace, else those of its model, where that is a folder on this machine
    and PyTorch is there: it runs once then.
    """
    assert spotted.finding is not None, "without a divergence there is nothing to look into"
    region = spotted.finding.region
    progress(f"running the port inside {region or 'the model'}")
    with port_inside(runs, ours, spotted, sides[1], folder) as own:
        known = any(a.key.path in sides[0] for a in ours.deeper)
        listed = called(own, sides[1], spotted)
        if known:
            found = zoomed(region, sides, spotted.rows, ours, own)
            return found if found.spots else listed
        if not has_model(ours):
            return listed
        progress(f"running the reference inside {region or 'the model'}")
        dtype = run_dtype(ours.activations)
        try:
            model = as_subject(ours.header.subject, dtype)
            with reference_inside(ours, model, sides[0], folder) as inner:
                found = zoomed(region, sides, spotted.rows, inner, own)
                return found if found.spots else listed  # bfloat16 may hide it from a zoom
        except FirstdiffError:  # moved, or of another version
            return listed


def has_model(ours: Trace) -> bool:
    """Whether the reference's model lies on this machine, with what runs it."""
    kind, _, folder = ours.header.subject.partition(":")
    there = kind == "hf" and Path(folder).is_dir()
    return there and all(find_spec(name) is not None for name in ("torch", "transformers"))


def called(own: Trace, paths: Sequence[str], spotted: Spotted) -> str:
    """The functions that the port's module calls before the first wrong value, with their lines; empty without any."""
    assert spotted.finding is not None, "asked for a finding"
    row = next(r for r in spotted.rows if r.activation.order == spotted.finding.order)
    key = row.pair.port.key if row.pair is not None else row.key
    orders = [a.order for a in own.activations]
    wrong = next((a.order for a in own.activations if a.key == key), max(orders, default=0) + 1)
    scope = Scope(own, tuple(paths))
    calls = _finished(calls_of(scope.inner), wrong)
    names = dict.fromkeys(f"{call.name} ({short(call.source)})" for call in calls)
    return f"Made in {scope.own_code} with {', '.join(names)}." if names else ""


def _finished(calls: Sequence[FunctionCall], order: int) -> list[FunctionCall]:
    """The calls that returned before ``order``, also inside one that did not."""
    found: list[FunctionCall] = []
    for call in calls:
        if call.last < order:
            found.append(call)
        elif call.first < order:
            found += _finished(call.children, order)
    return found
