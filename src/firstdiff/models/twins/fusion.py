"""What a port does to several parameters: fuse query, key and value, stack layers."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from firstdiff.models.twins.entry import Entry
    from firstdiff.models.twins.rules import Geometry, Rules


def fused(entries: list[Entry], rules: Rules, geometry: Geometry) -> list[Entry]:
    """``entries``, those that ``rules`` fuse joined in the place of their first."""
    by_name = {(e.path, e.leaf): e for e in entries}
    gone: set[tuple[str, str]] = set()
    made: list[Entry] = []
    for entry in entries:
        if (entry.path, entry.leaf) in gone:
            continue
        group = _group(entry, by_name, rules)
        if not group:
            made.append(entry)
            continue
        gone |= {(e.path, e.leaf) for e in group}
        made.append(_joined(group, rules, geometry))
    return made


_FUSIBLE = (("q_proj", "k_proj", "v_proj"), ("query", "key", "value"))


def _group(entry: Entry, by_name: Mapping[tuple[str, str], Entry], rules: Rules) -> list[Entry]:
    """The entries that are fused with ``entry``, the first of them; [] when none are."""
    home, _, last = entry.path.rpartition(".")
    groups: list[tuple[str, ...]] = list(_FUSIBLE if rules.qkv != "apart" else ())
    groups += [("gate_proj", "up_proj")] if rules.gate_up else []
    for names in groups:
        found = [by_name.get((f"{home}.{name}", entry.leaf)) for name in names]
        if last == names[0] and all(e is not None for e in found):
            return [e for e in found if e is not None]
    return []


def _joined(group: list[Entry], rules: Rules, geometry: Geometry) -> Entry:
    first = group[0]
    home = first.path.rpartition(".")[0]
    values = [e.value for e in group]
    equal = len({v.shape for v in values}) == 1
    if len(group) == 2 or rules.qkv == "flat" or (rules.qkv == "interleaved" and not equal):
        value = np.concatenate(values)
    elif rules.qkv == "interleaved":
        value = np.stack(values, axis=1).reshape(-1, *first.value.shape[1:])
    else:
        groups = geometry.kv_heads
        value = np.concatenate([v.reshape(groups, -1, *v.shape[1:]) for v in values], axis=1)
        value = value.reshape(-1, *first.value.shape[1:])
    name = "gate_up_proj" if len(group) == 2 else "qkv_proj"
    return replace(
        first,
        path=f"{home}.{name}",
        value=value,
        sources=tuple(s for e in group for s in e.sources),
    )


def stacked(entries: list[Entry], axis: int, pattern: str) -> list[Entry]:
    """Entries that differ only in the number that ``pattern`` finds, as one with a new axis."""
    groups: dict[tuple[str, str], list[Entry]] = {}
    for entry in entries:
        found = re.search(pattern, f"{entry.path}.")
        path = entry.path
        if found:
            path = f"{entry.path}."[: found.start(1)] + f"{entry.path}."[found.end(1) + 1 :]
            path = path.rstrip(".")
        groups.setdefault(
            (path, entry.leaf if found else f"{entry.leaf}\0{entry.path}"), []
        ).append(entry)
    made = []
    for (path, leaf), members in groups.items():
        if "\0" in leaf or len({e.value.shape for e in members}) > 1:
            made += members
            continue
        place = min(axis, members[0].value.ndim)
        value = np.stack([e.value for e in members], axis=place)
        sources = tuple(s for e in members for s in e.sources)
        made.append(replace(members[0], path=path, value=value, sources=sources))
    return made
