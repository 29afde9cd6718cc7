"""What a comparison comes to: the counts, the sentence, and the notes beside it."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from firstdiff.diff.coverage import agreement, coverage_notes
from firstdiff.diff.hidden import hidden_below, is_narrow
from firstdiff.diff.in_port import place_in_port
from firstdiff.diff.result import Counts, Diff, TraceSummary
from firstdiff.diff.switches import precision_notes
from firstdiff.diff.usual_layouts import layout_notes
from firstdiff.diff.vacuity import vacuities

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from firstdiff.diff.align import Alignment
    from firstdiff.diff.compare import Comparison
    from firstdiff.diff.inputs import InputCheck
    from firstdiff.diff.locate import Finding
    from firstdiff.diff.row import Row
    from firstdiff.traces import Trace

_FLOOR_TABLE = "floor/free/"


def conclude(
    reference: Trace, port: Trace, inputs: InputCheck, comparison: Comparison, alignment: Alignment,
    rows: tuple[Row, ...], finding: Finding | None,
) -> Diff:  # fmt: skip
    """The result of a comparison: its rows counted, its sentence, and what a reader should know beside it."""
    judged = [row for row in rows if row.verdict.kind == "agrees" and row.verdict.score is not None]
    worst = max(judged, key=lambda row: row.verdict.score or 0.0, default=None)
    counts = _counts(rows, alignment)
    sources = Counter(row.floor.source for row in rows if row.floor is not None)
    source = (
        comparison.floors.source
        if comparison.floors.recorded
        else next(iter(sources), "not needed: all values are equal")
    )
    return Diff(
        reference=_summary(reference),
        port=_summary(port),
        inputs=inputs,
        dtype=comparison.floors.dtype,
        floor=source,
        counts=counts,
        rows=rows,
        finding=finding,
        worst=worst,
        summary=_sentence(finding, counts, rows, worst, comparison.floors.dtype),
        hidden=hidden_below(rows, comparison.floors.dtype),
        warnings=vacuities(reference),
        notes=(
            *place_in_port(finding, rows, port.activations),
            *coverage_notes(counts, port.header),
            *alignment.notes,
            *layout_notes(rows, finding),
            *_notes(reference, port, rows, sources),
            *precision_notes(reference.header, port.header, rows, comparison.floors.dtype),
            *inputs.notes,
        ),
    )


def _summary(trace: Trace) -> TraceSummary:
    grid = trace.inputs.get("input_ids")
    floors = tuple(n.removeprefix(_FLOOR_TABLE) for n in trace.tables if n.startswith(_FLOOR_TABLE))
    places = [a.place for a in trace.activations]
    digest_only = bool(places) and all(place is None for place in places)
    shape = grid.shape if grid is not None else None
    return TraceSummary(str(trace.path), trace.header, len(places), shape, floors, digest_only)


def _counts(rows: Sequence[Row], alignment: Alignment) -> Counts:
    kinds = Counter(row.verdict.kind for row in rows)
    return Counts(
        pairs=len(alignment.pairs),
        agree=kinds["agrees"],
        diverge=sum(row.diverges for row in rows),
        healed=sum(bool(row.healed) for row in rows),
        repeated=sum(row.duplicate_of is not None for row in rows),
        missing=kinds["missing"],
        extra=kinds["extra"],
        ignored=alignment.ignored,
        evidence=dict(Counter(pair.evidence for pair in alignment.pairs)),
        layouts=dict(Counter(row.layout.name for row in rows if row.layout and row.layout.words)),
    )


def _sentence(
    finding: Finding | None, counts: Counts, rows: Sequence[Row], worst: Row | None, dtype: str
) -> str:
    if finding is not None:
        return f"First divergence: {finding.sentence}"
    compared = agreement(counts, rows)
    healed = f"; {counts.healed} differ without effect" if counts.healed else ""
    if worst is None or not worst.verdict.score:
        return f"{compared}, every value equal{healed}."
    if is_narrow(dtype):
        compared = f"As far as {dtype} shows, {compared[0].lower()}{compared[1:]}"
    place = f"{worst.name or 'the model'} {worst.label}"
    return f"{compared}, worst error / floor {worst.verdict.score:.2g} at {place}{healed}."


def _notes(
    reference: Trace, port: Trace, rows: Sequence[Row], sources: Mapping[str, int]
) -> list[str]:
    notes = [
        f"{side}: {note}"
        for side, t in (("reference", reference), ("port", port))
        for note in t.header.notes
    ]
    notes += [
        f"{count} activations are judged with {name}."
        for name, count in sources.items()
        if name != "recorded"
    ]
    if any(row.measurement is not None and row.measurement.estimated for row in rows):
        notes.append("Errors are estimated from digests; padded rows could not be left out.")
    incomparable = sum(row.verdict.kind == "not comparable" for row in rows)
    if incomparable:
        notes.append(f"{incomparable} pairs could not be compared.")
    return notes
