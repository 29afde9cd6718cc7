"""Between two ways of laying a pair: elements decide, and the other layers have a say.

A layout that the shapes do not demand is believed only where it brings the error to the floor: otherwise a transposed
attention matrix, or one layer that is laid unlike the others, would pass for a habit of the port.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING

from firstdiff.diff.names import normalise

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from firstdiff.diff.align import Pair
    from firstdiff.diff.layout import Layout
    from firstdiff.diff.locate import Finding
    from firstdiff.diff.row import Row

_SHOWN = 3
_HINT = 2.0
"""A layout with so many times less error is worth a hint."""

Family = tuple[object, ...]


def unforced(layout: Layout | None) -> bool:
    """Whether both shapes are equal, and the elements are laid otherwise all the same."""
    return (
        layout is not None
        and layout.kind not in ("identity", "broadcast")
        and layout.reference_shape == layout.own_shape
    )


def preferred(plain: Row, other: Row) -> Row:
    """The row to believe, of one in the plainest layout and one in another, both of the same pair.

    Where the shapes differ any layout is a guess, and the smaller error wins. Where they are equal the other one has
    to agree; if it is merely nearer, it is told as a hint.
    """
    assert plain.measurement is not None, "both were measured"
    assert other.measurement is not None, "both were measured"
    errors = plain.measurement.error_l2, other.measurement.error_l2
    if not unforced(other.layout):
        return other if errors[1] < errors[0] else plain
    if not other.verdict.bad:
        return other
    score = other.verdict.score
    if errors[0] < _HINT * errors[1] or other.layout is None or score is None:
        return plain
    return plain.noted(f"{other.layout.words} it would be {score:.2g} of the floor")


def settle(rows: Sequence[Row], laid: Callable[[Pair, str, Layout], Row]) -> list[Row]:
    """``rows`` with each divergence laid as the same tensor is in the other layers, where those agree.

    ``laid`` makes a row anew in a given layout. A divergence has no right to a layout of its own.
    """
    usual = _usual(rows)
    settled = []
    for row in rows:
        layout = usual.get(_family(row)) if row.verdict.kind == "diverges" else None
        if layout is None or layout == row.layout or row.pair is None or row.floor is None:
            settled.append(row)
            continue
        again = laid(row.pair, row.name, layout)
        settled.append(row if unforced(layout) and _further(again, row) else again)
    return settled


def _further(row: Row, other: Row) -> bool:
    assert row.measurement is not None, "laid rows are measured"
    assert other.measurement is not None, "rows with a floor are measured"
    return row.measurement.error_l2 >= other.measurement.error_l2


def _usual(rows: Iterable[Row]) -> dict[Family, Layout]:
    """The layout of most agreeing rows of each family; of those in which something was laid at all."""
    counts: dict[Family, Counter[Layout]] = defaultdict(Counter)
    for row in rows:
        if row.verdict.kind == "agrees" and row.layout is not None and row.floor is not None:
            counts[_family(row)][row.layout] += 1
    return {family: found.most_common(1)[0][0] for family, found in counts.items()}


def _family(row: Row) -> Family:
    """What the same tensor of all layers shares: path without numbers, site, leaf and the two shapes."""
    path = tuple("#" if part.isdigit() else part for part in normalise(row.key.path))
    if row.pair is None:
        return (path,)
    key, shapes = row.key, (row.pair.reference.shape, row.pair.port.shape)
    return path, key.site, key.leaf, key.method, shapes


def layout_notes(rows: Sequence[Row], finding: Finding | None) -> Iterator[str]:
    """What to say of layouts that no shape demands: that they are, in which layers alone, and before what fault."""
    found = [row for row in rows if row.pair is not None and unforced(row.layout)]
    if not found:
        return
    words = Counter(row.layout.words for row in found if row.layout is not None)
    ways = ", ".join(f"{count} {text}" for text, count in words.items())
    yield (
        f"{len(found)} activations have equal shapes and are laid otherwise all the same ({ways}), as their elements "
        f"show: {_listed(found)}."
    )
    usual = _usual(rows)
    odd = [row for row in found if usual.get(_family(row)) != row.layout]
    if odd:
        yield f"{_listed(odd)}: laid unlike the same tensor of the other layers."
    before = [r for r in found if finding is not None and _leads_to(r, finding)]
    if before:
        yield (
            f"{_listed(before)} lies right before the first divergence and is laid otherwise: if the port does not "
            f"mean that, it is the fault."
        )


def _leads_to(row: Row, finding: Finding) -> bool:
    """Whether ``row`` lies in the region of ``finding``, before it."""
    inside = row.name == finding.region or row.name.startswith(f"{finding.region}.")
    return bool(finding.region) and inside and row.activation.order < finding.order


def _listed(rows: Sequence[Row]) -> str:
    names = list(dict.fromkeys(f"{row.name or 'the model'} {row.label}" for row in rows))
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{', '.join(names[:_SHOWN])}{more}"
