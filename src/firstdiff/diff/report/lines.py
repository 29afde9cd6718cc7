"""Which rows of a result share a printed line: equal layers, siblings, modules whose activations all agree."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import groupby, takewhile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from firstdiff.diff.result import Diff
    from firstdiff.diff.row import Row

_LAYER = re.compile(r"^(.*?)\.(\d+)(?:\.|$)")


@dataclass(frozen=True)
class Line:
    """One line of the table of rows."""

    names: tuple[str, ...]
    """Paths of the modules that it stands for; `layers.3.*` for a whole layer."""
    rows: tuple[Row, ...]
    """The rows that it stands for."""
    label: str = ""
    """Site and leaf, where the line is about one activation."""

    @property
    def first(self) -> Row:
        """The row that it shows figures of: the one with the largest score."""
        return max(self.rows, key=lambda row: row.verdict.score or 0.0)


def lines(result: Diff, *, all_rows: bool = False) -> list[Line]:
    """The lines to print, in the reference's order: up to the first divergence, or all of them."""
    if all_rows:
        return [Line((row.name,), (row,), row.label) for row in result.rows]
    shown = [row for row in result.rows if row.pair is not None]
    first = result.first
    if first is not None:
        shown = [row for row in shown if row.activation.order <= first.activation.order]
    quiet = [row for row in shown if row.verdict.kind == "agrees"]
    layer = _layer(first.name) if first is not None else None
    grouped = _merge_siblings(_merge_layers(_modules(quiet, layer)))
    return grouped if first is None else [*grouped, Line((first.name,), (first,), first.label)]


def _layer(name: str) -> str | None:
    """`layers.3` of `layers.3.mlp.act_fn`."""
    found = _LAYER.match(f"{name}.")
    return f"{found[1]}.{found[2]}" if found else None


def _modules(rows: Sequence[Row], detailed: str | None) -> list[Line]:
    """One line a module that returned something, and one a layer other than ``detailed``."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        layer = _layer(row.name)
        name = f"{layer}.*" if layer is not None and layer != detailed else row.name
        groups.setdefault(name, []).append(row)
    found = [
        Line((name,), tuple(rows))
        for name, rows in groups.items()
        if name and (name.endswith(".*") or any(row.key.site == "output" for row in rows))
    ]
    return sorted(found, key=lambda line: line.rows[-1].activation.order)


def _merge_layers(found: Iterable[Line]) -> list[Line]:
    """Runs of whole layers as one line."""
    return [
        merged
        for whole, run in groupby(found, key=lambda line: line.names[0].endswith(".*"))
        for merged in (_by_stack(list(run)) if whole else list(run))
    ]


def _by_stack(run: Sequence[Line]) -> list[Line]:
    stacks = groupby(run, key=lambda line: line.names[0][:-2].rpartition(".")[0])
    return [_join(list(members)) for _, members in stacks]


def _merge_siblings(found: Iterable[Line]) -> list[Line]:
    """Neighbouring lines of modules with one parent and one ending (`q_proj`, `k_proj`) as one."""
    return [_join(list(run)) for _, run in groupby(found, key=_family)]


def _family(line: Line) -> tuple[str, str]:
    name = line.names[0]
    parent, _, own = name.rpartition(".")
    return (parent, own.rpartition("_")[2]) if "_" in own and len(line.names) == 1 else (name, "")


def _join(members: Sequence[Line]) -> Line:
    names = tuple(name for line in members for name in line.names)
    return Line(names, tuple(row for line in members for row in line.rows))


def title(names: Sequence[str]) -> str:
    """One name for several: `layers.{0-3}.*`, `layers.0.self_attn.{q,k,v}_proj`."""
    if len(names) == 1:
        return names[0] or "the model"
    head = _whole_segments(_common(names))
    ending = _common([name[len(head) :][::-1] for name in names])[::-1]
    middles = [name[len(head) : len(name) - len(ending)] for name in names]
    if ending and ending[0] not in "._":
        cut = min((ending.find(mark) for mark in "._" if mark in ending), default=len(ending))
        middles, ending = [middle + ending[:cut] for middle in middles], ending[cut:]
    return f"{head}{{{_ranges(middles)}}}{ending}"


def _common(texts: Sequence[str]) -> str:
    """The letters that all ``texts`` begin with."""
    same = takewhile(lambda letters: len(set(letters)) == 1, zip(*texts, strict=False))
    return "".join(letters[0] for letters in same)


def _whole_segments(prefix: str) -> str:
    return prefix[: prefix.rfind(".") + 1]


def _ranges(items: Sequence[str]) -> str:
    """`0-3` for consecutive numbers, otherwise the items with commas."""
    if not all(item.isdigit() for item in items):
        return ",".join(dict.fromkeys(items))
    numbers = sorted({int(item) for item in items})
    runs = [
        [number for _, number in run]
        for _, run in groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0])
    ]
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def by_kind(rows: Iterable[Row], beside: Iterable[Row] = ()) -> list[str]:
    """Names of ``rows`` with equal modules of all layers as one: `layers.{0-27}.mlp.act_fn`.

    A module that is also among the rows ``beside`` is named with the activation that is meant; steps are not told.
    """
    known = {row.name for row in beside}
    groups: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        label = f" {re.sub(r' step [0-9]+$', '', row.label)}" if row.name in known else ""
        groups.setdefault((re.sub(r"\.\d+(?=\.|$)", ".#", row.name), label), []).append(row.name)
    return [title(list(dict.fromkeys(names))) + label for (_, label), names in groups.items()]
