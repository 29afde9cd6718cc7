"""The first divergence: the earliest one in the reference's order that does not heal, put into words."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from firstdiff.diff.leaves import kind_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from firstdiff.diff.pattern import Pattern
    from firstdiff.diff.row import Row

FindingKind = Literal["divergence", "non-finite", "shape", "dtype", "index"]
Where = Literal["inside", "between", "wiring", "input"]

_MOST_NAMES = 4


@dataclass(frozen=True)
class Finding:
    """The first divergence."""

    order: int
    """The reference's execution order of the first wrong activation."""
    kind: FindingKind
    """What is wrong with it; `index` for positions, masks and other exact things."""
    where: Where
    """`inside` a module whose inputs agree; `between` modules that agree and one whose input does not; `wiring`: the
    right value was made, and another one passed on; `input`: the model's own input."""
    region: str
    """The module in which the fault lies, as people name it; ``""`` is the model itself."""
    after: tuple[str, ...] = ()
    """The last modules in the region that agree, whose results lead to the fault."""
    before: str = ""
    """The module whose input is the first wrong value; ``""`` when a result is."""
    sentence: str = ""
    """In one sentence: `inside layers.0.mlp, after up_proj (agrees), before down_proj (its input differs).`"""
    pattern: Pattern | None = None
    """The error by token; None where the activation has no token axis, or no elements were kept."""
    repeats: tuple[int, ...] = ()
    """Reference orders of the rows that hold the very same two values."""
    later: int = 0
    """Further diverging activations: an error once made is carried on, so they may all be its consequence."""


def locate(rows: Sequence[Row]) -> Finding | None:
    """The first divergence among ``rows`` (marked by `healing`, in the reference's order), or None."""
    diverging = [row for row in rows if row.diverges]
    if not diverging:
        return None
    first = diverging[0]
    order = first.activation.order
    repeats = tuple(row.activation.order for row in rows if row.duplicate_of == order)
    return replace(located(first, rows), repeats=repeats, later=len(diverging) - 1)


def row_of(finding: Finding, rows: Sequence[Row]) -> Row | None:
    """The row that ``finding`` is about; None when ``rows`` lack it. Parts of one activation have one order."""
    found = [r for r in rows if r.side != "port" and r.activation.order == finding.order]
    return next((row for row in found if row.diverges), found[0] if found else None)


def located(row: Row, rows: Sequence[Row]) -> Finding:
    """The wrong ``row`` among ``rows`` (in the reference's order) as a finding of its own."""
    finding = _place(row, rows)
    step = f"in step {row.key.step}, " if row.key.step else ""
    return replace(finding, sentence=f"{step}{_sentence(finding, row, rows)}")


def _place(first: Row, rows: Sequence[Row]) -> Finding:
    order, kind = first.activation.order, _kind(first)
    if first.key.site == "output":
        return Finding(order, kind, "inside", first.name, after=_leading(first, first.name, rows))
    if not first.name:
        return Finding(order, kind, "input", "")
    region = _around(first.name)
    source = _carried(first, rows)
    if source is not None:
        return Finding(order, kind, "wiring", region, (source.name,), first.name)
    return Finding(order, kind, "between", region, _leading(first, region, rows), first.name)


def _around(name: str) -> str:
    """The module around ``name``; a stack such as `layers` is none."""
    region, _, own = name.rpartition(".")
    return region.rpartition(".")[0] if own.isdigit() else region


def _kind(row: Row) -> FindingKind:
    if row.pair is not None and row.verdict.kind == "diverges" and row.verdict.score is None:
        return "index"
    names: dict[str, FindingKind] = {"non-finite": "non-finite", "shape": "shape", "dtype": "dtype"}
    return names.get(row.verdict.kind, "divergence")


def _carried(first: Row, rows: Sequence[Row]) -> Row | None:
    """The earlier result that the reference passes on as ``first``, when it agrees with the port's."""
    digest = first.activation.digest
    if digest is None:
        return None
    for row in _before(first, rows):
        same = (
            row.activation.digest is not None and row.activation.digest.checksum == digest.checksum
        )
        if (
            same
            and row.pair is not None
            and row.key.site == "output"
            and row.verdict.kind == "agrees"
        ):
            return row
    return None


def _before(first: Row, rows: Sequence[Row]) -> list[Row]:
    """Paired rows of the same step before ``first``, the last one first."""
    return [
        row
        for row in reversed(rows)
        if row.pair is not None
        and row.activation.order < first.activation.order
        and row.key.step == first.key.step
    ]


def _leading(first: Row, region: str, rows: Sequence[Row]) -> tuple[str, ...]:
    """Children of ``region`` that agree and whose results no other child before ``first`` took unchanged.

    Those of the region's present call alone: going back from ``first``, until a child is met a second time.
    """
    found: list[str] = []
    taken: set[int] = set()
    seen: set[tuple[str, int]] = set()
    for row in _before(first, rows):
        child = _child(row.name, region)
        if child is None:
            if row.name == region:
                break
            continue
        digest = row.activation.digest
        if row.key.site == "input":
            taken |= {digest.checksum} if digest is not None else set()
        elif row.name == child and child not in found and (child, row.key.call) not in seen:
            seen.add((child, row.key.call))
            used = digest is not None and digest.checksum in taken
            if row.verdict.kind == "agrees" and not used:
                found.append(child)
    return tuple(reversed(found[:_MOST_NAMES]))


def _child(name: str, region: str) -> str | None:
    """The child of ``region`` that the module ``name`` is or lies in; stacks count with their index: `layers.3`."""
    prefix = f"{region}." if region else ""
    if not name.startswith(prefix) or name == region:
        return None
    head, *rest = name[len(prefix) :].split(".")
    return f"{prefix}{head}.{rest[0]}" if rest and rest[0].isdigit() else f"{prefix}{head}"


def _sentence(finding: Finding, first: Row, rows: Sequence[Row]) -> str:
    region = finding.region or "the model"
    after = _after(finding)
    if finding.where == "input":
        return f"the model's own input {first.key.leaf or 'tensor'} {_what(finding, first)}."
    if finding.where == "wiring":
        given, taker = (
            _short(finding.after[0], finding.region),
            _short(finding.before, finding.region),
        )
        return (
            f"inside {region}, where {taker} is called: the reference passes on the result of {given}, which agrees, "
            f"the port something else{_note(finding, first)}."
        )
    if finding.where == "between":
        taker = _short(finding.before, finding.region)
        return (
            f"inside {region}{after}, before {taker} ({_input_of(first)} {_what(finding, first)})."
        )
    class_name = f" ({first.activation.class_name})" if first.activation.class_name else ""
    return f"inside {region}{class_name}{after}: {_inputs(first, rows)}, its result {_what(finding, first)}."


def _input_of(first: Row) -> str:
    return f"its input {first.key.leaf}" if kind_of(first.activation) != "float" else "its input"


def _after(finding: Finding) -> str:
    names = [_short(name, finding.region) for name in finding.after]
    if not names:
        return ""
    return f", after {', '.join(names)} (agree{'s' if len(names) == 1 else ''})"


def _short(name: str, region: str) -> str:
    return name.removeprefix(f"{region}.") if region else name


def _what(finding: Finding, first: Row) -> str:
    verbs = {
        "non-finite": "is the first that is not finite",
        "shape": "has another shape",
        "dtype": "has another kind of dtype",
        "index": "differs, and is compared exactly",
        "divergence": "differs",
    }
    return verbs[finding.kind] + _note(finding, first)


def _note(finding: Finding, first: Row) -> str:
    return (
        f": {first.verdict.notes[-1]}"
        if finding.kind != "divergence" and first.verdict.notes
        else ""
    )


def _inputs(first: Row, rows: Sequence[Row]) -> str:
    """Whether what the module was given is known to agree."""
    key = first.key
    given = [
        row
        for row in rows
        if row.key.site == "input" and (row.key.path, row.key.call, row.key.step) == (key.path, key.call, key.step)
        and row.side != "port"
    ]  # fmt: skip
    if not given:
        return "its input was not recorded"
    if any(row.pair is None for row in given):
        known = [row for row in given if row.pair is not None]
        return "some of its inputs have no partner" if known else "its input has no partner"
    return "its input agrees" if len(given) == 1 else "its inputs agree"
