"""The lines above the rows: both traces, the alignment, the weights."""

from __future__ import annotations

from pathlib import PurePath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from firstdiff.diff.result import Counts, Diff, TraceSummary

_EVIDENCE = {
    "map": "from the map",
    "weights": "by weights",
    "name": "by name",
    "alias": "by alias",
    "graph": "by call graph",
    "only candidate": "the only candidates",
    "values": "by value",
    "neighbours": "between matched neighbours",
}


def headlines(result: Diff) -> list[tuple[str, str]]:
    """(title, text) of each line."""
    found = [
        (PurePath(result.reference.path).name, _reference(result.reference)),
        (PurePath(result.port.path).name, _port(result.port)),
        ("aligned", _aligned(result)),
    ]
    if result.weights:
        found.append(("weights", result.weights))
    if result.audit is not None:
        found += [("", line) for line in result.audit.lines]
    return found


def _reference(trace: TraceSummary) -> str:
    floors = f" + noise floor ({', '.join(trace.floors)})" if trace.floors else ""
    changed = trace.header.output_check.get("bitwise") is False
    parts = [*_made(trace), *_tokens(trace), _activations(trace) + floors]
    parts += [trace.header.tracing] if changed else []
    return " · ".join(part for part in parts if part)


def _port(trace: TraceSummary) -> str:
    parts = [*_made(trace), _activations(trace), trace.header.tracing]
    return " · ".join(part for part in parts if part)


def _made(trace: TraceSummary) -> list[str]:
    """Model type or front end, and framework with version, mode and dtype."""
    header = trace.header
    kind = str(header.model.get("type") or "")
    front_end = header.front_end if header.front_end != header.framework else ""
    version = header.versions.get(header.framework, "")
    mode = header.mode if header.mode != "eager" else ""
    made = " ".join(part for part in (header.framework, version, mode, header.dtype) if part)
    return [part for part in (front_end or kind, made) if part]


def _tokens(trace: TraceSummary) -> list[str]:
    return [] if trace.tokens is None else [f"{'x'.join(map(str, trace.tokens))} tokens"]


def _activations(trace: TraceSummary) -> str:
    return f"{trace.activations} activations" + (", digests only" if trace.digest_only else "")


def _aligned(result: Diff) -> str:
    counts = result.counts
    evidence = [f"{n} {_EVIDENCE[kind]}" for kind, n in counts.evidence.items()]
    parts = [
        f"{counts.pairs}/{counts.pairs + counts.missing}",
        ", ".join(evidence),
        _layouts(counts),
    ]
    extra = f"{counts.extra} extra in the port" if counts.extra else ""
    ignored = f"{counts.ignored} ignored" if counts.ignored else ""
    return " · ".join(part for part in (*parts, extra, ignored) if part)


def _layouts(counts: Counts) -> str:
    total = sum(counts.layouts.values())
    names = ", ".join(counts.layouts)
    return f"{total} layout{'s' if total > 1 else ''} inferred ({names})" if total else ""
