"""Comparing two traces from end to end. Each step lies in a file of its own; this one is their order."""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from firstdiff.diff.align import DEFAULT_MATCHERS, Alignment, Unmatched, align
from firstdiff.diff.by_value import names_say_little, with_values
from firstdiff.diff.choices import with_choices
from firstdiff.diff.compare import Comparison
from firstdiff.diff.conclusion import conclude
from firstdiff.diff.explain import explain, find_faint
from firstdiff.diff.floor import Floors, coarser, run_dtype
from firstdiff.diff.generation import generation, last_common_step, up_to
from firstdiff.diff.granularity import with_parts
from firstdiff.diff.healing import mark_duplicates, mark_healed
from firstdiff.diff.hidden import is_narrow
from firstdiff.diff.inputs import InputCheck, check_inputs
from firstdiff.diff.judge import FAIL, WARN, Verdict
from firstdiff.diff.locate import Finding, locate, row_of
from firstdiff.diff.mapping import PathMap, read_map
from firstdiff.diff.measure import Side
from firstdiff.diff.modules import serving_one
from firstdiff.diff.names import wrapper_prefix
from firstdiff.diff.origin import with_origins
from firstdiff.diff.pattern import find_pattern
from firstdiff.diff.row import Row
from firstdiff.diff.usual_layouts import settle
from firstdiff.diff.weights.applied import better, distrusted, with_weights
from firstdiff.diff.weights.evidence import Weighing, matchers_of, weigh
from firstdiff.traces import Trace, open_trace
from firstdiff.traces.errors import OptionError
from firstdiff.traces.padding import padding_mask

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from firstdiff.diff.modules import Matcher
    from firstdiff.diff.result import Diff
    from firstdiff.traces.parameters import Parameter

Source = str | os.PathLike[str] | Trace
_TRIPS = (ArithmeticError, AssertionError, LookupError, MemoryError, TypeError, ValueError)
"""A hypothesis that trips over a model it was not made for must not cost the verdict."""
_COMPILE_FROM = 64 << 20
"""Bytes to read from which the compiled kernel pays for being loaded."""


def diff(
    reference: Source,
    port: Source,
    *,
    map: str | os.PathLike[str] | Mapping[str, Any] | PathMap | None = None,
    matchers: Iterable[Matcher] | None = None,
    parameters: Sequence[Parameter] = (),
    compiled: bool | None = None,
    progress: Callable[[str], None] = lambda _message: None,
) -> Diff:
    """Align two traces and find where the port first goes wrong.

    ``map`` is a TOML file or a mapping of module paths (`mapping.read_map`). ``matchers`` replace the usual evidence:
    equal weights, where both traces keep digests of them, names, the call graph. ``parameters`` are the port's own,
    with values, where its model is at hand. ``compiled`` measures with numba where it is installed; None does so when
    the traces are large.

    Raises:
        TraceError: one of them is no complete trace.
        InputMismatch: they were made from different inputs.
        OptionError: the map is not usable, or nothing could be paired.
    """
    with ExitStack() as stack:
        ours, theirs = (_open(source, stack) for source in (reference, port))
        inputs = check_inputs(ours, theirs)
        path_map = read_map(Path(map) if isinstance(map, os.PathLike) else map)
        progress("comparing the weights")
        weighing = weigh(ours, theirs, parameters) if matchers is None else None

        def compared(matchers: Iterable[Matcher], weighing: Weighing | None) -> Diff:
            return _compared(
                ours, theirs, inputs, path_map, tuple(matchers), weighing, compiled, progress
            )

        if not isinstance(weighing, Weighing):
            result = compared(DEFAULT_MATCHERS if matchers is None else matchers, None)
            return replace(result, notes=(*result.notes, *([weighing] if weighing else [])))
        result = compared(matchers_of(weighing), weighing)
        doubtful = distrusted(result, weighing)
        if doubtful:
            progress("comparing once more, by name")
            again = compared(matchers_of(weighing, doubtful), weighing)
            result = again if better(again, result, weighing) else result
        return with_weights(result, weighing)


def _compared(
    ours: Trace, theirs: Trace, inputs: InputCheck, path_map: PathMap, matchers: tuple[Matcher, ...],
    weighing: Weighing | None, compiled: bool | None, progress: Callable[[str], None],
) -> Diff:  # fmt: skip
    """The comparison of the activations alone."""
    progress("aligning")
    last, stopped = last_common_step(ours, theirs)
    if theirs.header.front_end == "functions":
        matchers = tuple(serving_one(matcher) for matcher in matchers)
    alignment = align(
        up_to(ours.activations, last),
        up_to(theirs.activations, last),
        path_map=path_map,
        matchers=matchers,
    )
    _check_alignment(alignment, ours, theirs)
    progress("measuring")
    comparison = _comparison(ours, theirs, compiled)
    parts = [] if weighing is None else [p for p in weighing.map.pairs if p.part]
    if names_say_little(alignment):  # parts of modules are no question before values were asked
        alignment = with_values(alignment, comparison)
    alignment = with_parts(alignment, comparison, [(p.reference, p.port) for p in parts])
    alignment = with_values(alignment, comparison)
    rows = _rows(alignment, comparison)
    finding = locate(rows)
    if finding is not None:
        finding = _with_pattern(finding, rows, comparison)
    result = conclude(ours, theirs, inputs, comparison, alignment, rows, finding)
    result = replace(result, generation=generation(rows, ours, theirs, stopped))
    result = _with_suspicion(result, comparison, progress)
    if finding is None:
        return result
    progress("explaining")
    try:
        explanation = explain(ours, theirs, rows, finding, padding=comparison.padding)
    except _TRIPS as error:
        failed = f"no explanation: looking for one failed ({type(error).__name__}: {error})"
        return replace(result, notes=(*result.notes, failed))
    cause = explanation.sentence if explanation is not None and explanation.cause else ""
    return replace(result, explanation=explanation, cause=cause)


def _with_suspicion(result: Diff, comparison: Comparison, progress: Callable[[str], None]) -> Diff:
    """``result`` with the mistake whose pattern lies below a floor coarser than float32's, ahead of what diverges.

    Nothing is looked for where one side is finer: all that differs there is the rounding of the other and its weights.
    """
    sides = (comparison.reference, comparison.port)
    if not all(is_narrow(run_dtype(side.activations)) for side in sides):
        return result
    progress("looking below the floor")
    end = None if result.finding is None else result.finding.order
    rows = [row for row in result.rows if end is None or _before(row, end)]
    try:
        found = find_faint(comparison.reference, comparison.port, rows, comparison.padding)
    except _TRIPS as error:
        failed = f"nothing was looked for below the floor ({type(error).__name__}: {error})"
        return replace(result, notes=(*result.notes, failed))
    if found is None or result.finding is not None:
        return replace(result, suspicion=found)
    return replace(result, suspicion=found, summary=found.sentence)


def _before(row: Row, order: int) -> bool:
    return row.side != "port" and row.activation.order < order


def _open(source: Source, stack: ExitStack) -> Trace:
    return source if isinstance(source, Trace) else stack.enter_context(open_trace(source))


def _check_alignment(alignment: Alignment, reference: Trace, port: Trace) -> None:
    if alignment.pairs:
        return
    shown = [next((a.key.path for a in t.activations if a.key.path), "") for t in (reference, port)]
    raise OptionError(
        f"{reference.path.name} and {port.path.name} have no activation in common: the reference has modules like "
        f"{shown[0]!r}, the port like {shown[1]!r}; name pairs of paths with --map FILE.toml"
    )


def _comparison(reference: Trace, port: Trace, compiled: bool | None) -> Comparison:
    dtype = coarser(run_dtype(reference.activations), run_dtype(port.activations))
    floors = Floors.of_trace(reference, dtype)
    size = sum(
        a.place.nbytes for t in (reference, port) for a in t.activations if a.place is not None
    )
    mask = padding_mask({name: reference.input_values(name) for name in reference.inputs})
    return Comparison(
        reference, port, floors, mask, size >= _COMPILE_FROM if compiled is None else compiled
    )


def _rows(alignment: Alignment, comparison: Comparison) -> tuple[Row, ...]:
    """Every row, the reference's in its execution order, then what the port has beyond it."""
    prefixes = [
        wrapper_prefix(a.key.path for a in t.activations)
        for t in (comparison.reference, comparison.port)
    ]
    rows = [
        comparison.row(pair, pair.reference.key.path.removeprefix(prefixes[0]))
        for pair in alignment.pairs
    ]
    rows = settle(rows, comparison.laid)
    rows = with_choices(rows, comparison.reference, comparison.port)
    missing = [_unmatched(u, prefixes[0]) for u in alignment.unmatched if u.side == "reference"]
    extra = [_unmatched(u, prefixes[1]) for u in alignment.unmatched if u.side == "port"]
    ordered = sorted([*rows, *missing], key=lambda row: row.activation.order)
    marked = (*mark_duplicates(mark_healed(ordered)), *extra)
    return with_origins(marked, comparison.reference, comparison.floors.dtype)


def _unmatched(found: Unmatched, prefix: str) -> Row:
    kind = "missing" if found.side == "reference" else "extra"
    name = found.activation.key.path.removeprefix(prefix)
    return Row(name, Verdict("missing" if kind == "missing" else "extra"), unmatched=found)


def _with_pattern(finding: Finding, rows: Sequence[Row], comparison: Comparison) -> Finding:
    """``finding`` with the error by token, where there are elements and tokens."""
    row = row_of(finding, rows)
    assert row is not None, "a finding has a row"
    grid = _grid(comparison.reference)
    pair, score = row.pair, row.verdict.score
    if grid is None or pair is None or row.layout is None or row.floor is None or score is None:
        return finding
    if pair.reference.place is None or pair.port.place is None or row.verdict.kind == "non-finite":
        return finding
    sides = (
        Side(comparison.reference.stored(pair.reference), pair.reference.dtype),
        Side(comparison.port.stored(pair.port), pair.port.dtype),
    )
    limit = max(WARN / 2, min(FAIL, score / 2)) * row.floor.relative
    pattern = find_pattern(*sides, row.layout, grid, comparison.padding, limit)
    return replace(finding, pattern=pattern)


def _grid(trace: Trace) -> tuple[int, int] | None:
    """(batch, tokens) of the model's inputs."""
    for name in ("input_ids", "tokens", "attention_mask", *trace.inputs):
        found = trace.inputs.get(name)
        if found is not None and len(found.shape) == 2:
            return found.shape[0], found.shape[1]
    return None
