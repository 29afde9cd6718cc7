"""From wrong taps of a replay to faults: in which module, or between which ones, and in what words.

Apart from `locate.py`, which finds the first divergence of a free run. Here every input is right, so every
wrong value is a place of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol, TypeVar

from firstdiff.diff.locate import Finding, located

if TYPE_CHECKING:
    from firstdiff.diff.explain import Explanation
    from firstdiff.diff.judge import Grade
    from firstdiff.diff.row import Row


@dataclass(frozen=True)
class Fault:
    """One wrong place."""

    title: str
    """`layers.0.mlp.act_fn`, or `glue in layers.0.self_attn, between q/k/v_proj and o_proj`."""
    module: str
    """The module in whose own code the fault lies; ``""`` is the model itself."""
    activation: str
    """Path of the wrong activation's module, without the outer wrapper."""
    site: str
    """`input` where the fault lies before the module, `output` where it lies in it."""
    score: float | None
    """error / local floor; None for what is compared exactly, or is not finite."""
    grade: Grade
    """WARN from 3, FAIL from 8; a WARN is a fault where another layer has the same as a FAIL."""
    finding: Finding
    """The same in the terms of a comparison, with a whole sentence."""
    source: str = ""
    """`file:line` of the port that made the value, when known."""
    leaf: str = ""
    """Which of the module's inputs or results."""
    explanation: Explanation | None = None
    """Why the value is wrong, certain or not; None where the same fault of an earlier layer is explained."""


def find_faults(rows: Sequence[Row]) -> list[Fault]:
    """Every wrong and unrepeated value among ``rows`` (in the reference's order) as a fault."""
    found: dict[object, Fault] = {}
    for row in rows:
        if row.verdict.bad and row.duplicate_of is None:
            # Several wrong results of one call (cos and sin) are one fault.
            call = replace(row.key, leaf="" if row.key.site == "output" else row.key.leaf)
            found[call] = _worse(found.get(call), _fault(row, rows))
    return list(found.values())


def beyond_doubt(found: Sequence[Fault]) -> list[Fault]:
    """Those of ``found`` that are a FAIL, and those at the same place of another layer as one that is: a mistake in
    code or in conversion is made in every layer, and is larger in one than in another.
    """
    certain = {_kind(fault) for fault in found if fault.grade == "FAIL"}
    return [fault for fault in found if _kind(fault) in certain]


def _kind(fault: Fault) -> tuple[str, str, str]:
    """Where ``fault`` lies, in every layer alike."""
    path = re.sub(r"(?<![^.])\d+(?![^.])", "#", fault.activation)
    return path, fault.site, fault.leaf


def _worse(earlier: Fault | None, fault: Fault) -> Fault:
    """The earlier fault of the same call, with the larger score and the graver class of both."""
    if earlier is None:
        return fault
    scores = [f.score for f in (earlier, fault)]
    known = [score for score in scores if score is not None]
    grade: Grade = "FAIL" if "FAIL" in (earlier.grade, fault.grade) else "WARN"
    return replace(earlier, score=max(known) if len(known) == 2 else None, grade=grade)


def _fault(row: Row, rows: Sequence[Row]) -> Fault:
    finding = located(row, rows)
    return Fault(
        title=_fault_title(row, finding, rows),
        module=finding.region,
        activation=row.name,
        site=row.key.site,
        score=row.verdict.score,
        grade=row.verdict.grade,
        finding=finding,
        source=row.pair.port.source if row.pair is not None else "",
        leaf=row.key.leaf,
    )


def _fault_title(row: Row, finding: Finding, rows: Sequence[Row]) -> str:
    region = finding.region or "the model"
    after = together(_short(name, finding.region) for name in finding.after)
    if finding.where == "input":
        return f"the model's own input {row.key.leaf}".rstrip()
    if finding.where != "inside":
        leaf = "" if _is_main_input(row, rows) else f"'s {row.key.leaf}"
        before = f"{_short(finding.before, finding.region)}{leaf}"
        bounds = f"between {after} and {before}" if after else f"before {before}"
        return f"glue in {region}, {bounds}"
    if any(
        other.name.startswith(f"{row.name}." if row.name else "") and other.name != row.name
        for other in rows
    ):
        return f"glue in {region}, after {after}" if after else f"glue in {region}"
    return region


def _is_main_input(row: Row, rows: Sequence[Row]) -> bool:
    """Whether the module is given nothing before ``row``."""
    key = row.key
    earlier = [
        other
        for other in rows
        if other.key.site == "input"
        and (other.key.path, other.key.call, other.key.step) == (key.path, key.call, key.step)
        and other.activation.order < row.activation.order
    ]
    return not earlier


def _short(name: str, region: str) -> str:
    return name.removeprefix(f"{region}.") if region else name


def together(names: Iterable[str]) -> str:
    """`q/k/v_proj` for `q_proj`, `k_proj`, `v_proj`; others with commas."""
    found = list(names)
    heads, endings = ({name.rpartition("_")[side] for name in found} for side in (0, 2))
    if len(found) > 1 and len(endings) == 1 and "" not in heads:
        return f"{'/'.join(name.rpartition('_')[0] for name in found)}_{endings.pop()}"
    return ", ".join(found)


def listed(faults: Sequence[Fault]) -> str:
    """All ``faults`` in one sentence: `lm_head; glue in layers.{1-3}.self_attn, between q_proj and o_proj.`"""
    return f"{'; '.join(title for title, _ in merged(faults)) or 'none'}."


class Titled(Protocol):
    """A fault, or what is listed like one."""

    @property
    def title(self) -> str:
        """Its place."""


_Listed = TypeVar("_Listed", bound=Titled)


def merged(faults: Sequence[_Listed]) -> list[tuple[str, list[_Listed]]]:
    """Faults that say the same of several layers as one: (`glue in layers.{0-3}.self_attn, ...`, its faults)."""
    groups: dict[str, list[_Listed]] = {}
    for fault in faults:
        groups.setdefault(re.sub(r"\.\d+(?=\.|,|$)", ".#", fault.title), []).append(fault)
    return [(_merged_title(shape, found), found) for shape, found in groups.items()]


def _merged_title(shape: str, found: Sequence[Titled]) -> str:
    from firstdiff.diff.report.lines import title

    if len(found) == 1 or shape.count("#") != 1:
        first, more = found[0].title, len(found) - 1
        return f"{first} and {more} more like it" if more else first
    head, _, tail = shape.partition("#")
    length = len(head)
    numbers = [f.title[length : len(f.title) - len(tail)] for f in found]
    spelled = title([f"x.{number}" for number in numbers])
    return f"{head}{spelled.removeprefix('x.')}{tail}"
