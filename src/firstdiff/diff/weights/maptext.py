"""The map as text for people and as TOML for `--map`. Computes nothing but the globs that say it in few lines."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import TYPE_CHECKING

from firstdiff.diff.mapping import substitute
from firstdiff.diff.weights.modulemap import CERTAIN, MapPair, ModuleMap

if TYPE_CHECKING:
    from collections.abc import Iterable

_INDEX = re.compile(r"(?<=[._])\d+(?=\.|$)|(?<=[a-z])\d+(?=\.|$)")


def toml(module_map: ModuleMap) -> str:
    """Entries `"reference path" = "port path"`, with a star for the layer where one says all; parts as comments."""
    lines = [
        '# Which module of the port is which of the reference: "reference" = "port". Edit freely.'
    ]
    whole = [p for p in module_map.pairs if not p.part and p.reference and p.port]
    for evidence, pairs in _by_evidence(whole).items():
        lines += ["", f"# {_TITLES.get(evidence, evidence)}"]
        lines += [f"{_quoted(one)} = {_quoted(other)}" for one, other in globs(pairs)]
    parts = [p for p in module_map.pairs if p.part]
    if parts:
        lines += ["", "# Parts of a fused or split module: shown, not compared"]
        lines += [f"# {_quoted(one)} = {_quoted(other)}" for one, other in globs(parts)]
    return "\n".join(lines) + "\n"


def lines(module_map: ModuleMap) -> list[str]:
    """A line for every kind of pair: both paths, what it rests on, how sure it is."""
    rows = [
        (one, other, *_support(pairs))
        for (one, other), pairs in grouped_pairs(module_map.pairs).items()
    ]
    wide = [max([len(row[column]) for row in rows], default=0) for column in (0, 1)]
    text = [
        f"{one or '(model)':<{wide[0]}}  {other or '(model)':<{wide[1]}}  {why}"
        for one, other, why in rows
    ]
    text += [f"{path}  only in the reference" for path in module_map.reference_only if path]
    return text + [f"{path}  only in the port" for path in module_map.port_only if path]


def globs(pairs: Iterable[MapPair]) -> list[tuple[str, str]]:
    """(glob, template) that say ``pairs`` in few entries: stars where the index of both sides is the same."""
    found: list[tuple[str, str]] = []
    for (one, other), members in grouped_pairs(pairs).items():
        if "*" in one and all(substitute(one, other, p.reference) == p.port for p in members):
            found.append((one, other))
        else:
            found += [(p.reference, p.port) for p in members]
    return found


_TITLES = {
    "weights": "They own equal weights",
    "contents": "The modules in them do",
    "graph": "They run between the same neighbours",
    "name": "By name",
    "alias": "By a usual other name: check these",
    "only one": "Nothing else is left: check these",
    "values": "Their results are equal",
}


def _by_evidence(pairs: Iterable[MapPair]) -> dict[str, list[MapPair]]:
    found: dict[str, list[MapPair]] = {title: [] for title in _TITLES}
    for pair in pairs:
        found.setdefault(pair.evidence, []).append(pair)
    return {evidence: members for evidence, members in found.items() if members}


def grouped_pairs(pairs: Iterable[MapPair]) -> dict[tuple[str, str], list[MapPair]]:
    """Pairs that differ only in an index that is the same on both sides."""
    groups: dict[tuple[str, str], list[MapPair]] = defaultdict(list)
    for pair in pairs:
        groups[_starred(pair.reference, pair.port)].append(pair)
    return groups


def _starred(one: str, other: str) -> tuple[str, str]:
    indices = _INDEX.findall(one), _INDEX.findall(other)
    if indices[0] != indices[1] or not indices[0]:
        return one, other
    return _INDEX.sub("*", one), _INDEX.sub("*", other)


def _support(pairs: list[MapPair]) -> tuple[str]:
    first = min(pairs, key=lambda p: p.confidence)
    sure = "certain" if first.confidence >= CERTAIN else f"{first.confidence:.0%}"
    count = f" x{len(pairs)}" if len(pairs) > 1 else ""
    part = "part" if first.part else first.evidence
    conflict = next((p.conflict for p in pairs if p.conflict), "")
    return (f"{part}{count}, {sure}" + (f"; {conflict}" if conflict else ""),)


def _quoted(path: str) -> str:
    escaped = path.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
