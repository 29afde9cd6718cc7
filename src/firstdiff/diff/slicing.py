"""How a fused tensor may hold several smaller ones: one behind the other, by head, by key-value group, stacked.

Which ways fit the shapes; which one the elements have is `cutting`'s business.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations
from math import gcd, prod

from firstdiff.traces.part import Cut

Shape = tuple[int, ...]

_MOST_ORDERED = 3
"""Up to so many members every order is tried; more come in their own order."""
_FEATURE_AXES = 3
"""Features are spread over at most so many trailing axes: `[3, heads, head_dim]`."""


@dataclass(frozen=True)
class Slicing:
    """One way to cut a fused tensor into its members."""

    words: str
    """`one behind the other`, `in 8 groups of 24`, `stacked on axis 0`."""
    cuts: tuple[Cut, ...]
    """One for each member, in the members' order."""
    order: tuple[int, ...]
    """Which member lies first, second, ..."""


def slicings(whole: Shape, sizes: Sequence[int], *, ordered: bool = False) -> Iterator[Slicing]:
    """Every way that fits, the plainest first: in order before out of order, flat before grouped.

    ``whole`` is the fused shape, ``sizes`` the number of elements of each member, which add up to the whole's.
    ``ordered`` keeps to the members' own order.
    """
    total = prod(whole)
    if len(sizes) < 2 or sum(sizes) != total or not total:
        return
    seen: set[tuple[Shape, tuple[int, ...]]] = set()
    orders = [tuple(range(len(sizes)))] if ordered else _orders(len(sizes))
    for reading in _readings(whole, sizes):
        for order in orders:
            key = _period(*reading[:2]), order
            if key not in seen:
                seen.add(key)
                yield _slicing(whole, reading, sizes, order)


def _orders(count: int) -> list[tuple[int, ...]]:
    own = tuple(range(count))
    return list(permutations(own)) if count <= _MOST_ORDERED else [own]


def _period(read: Shape, axis: int) -> Shape:
    """What tells two readings apart: elements before, along and behind the axis that is cut."""
    return prod(read[:axis]), read[axis], prod(read[axis + 1 :])


Reading = tuple[Shape, int, Shape, str]
"""(shape in which the whole is read, axis that is cut, shape of a part with -1 at its features, words)."""


def _readings(whole: Shape, sizes: Sequence[int]) -> Iterator[Reading]:
    total, shares = prod(whole), gcd(*sizes)
    unit = total // shares
    starts = range(max(1, len(whole) - _FEATURE_AXES), len(whole)) if len(whole) > 1 else range(1)
    runs = [(start, prod(whole[start:])) for start in reversed(starts)]
    for start, length in runs:  # one behind the other along the features
        if length % unit == 0:
            last = start == len(whole) - 1
            words = "one behind the other" + ("" if last else f", axes {start} and up as one")
            yield (*whole[:start], length), start, (*whole[:start], -1), words
    if len(set(sizes)) == 1:  # on an axis of their own
        for axis, length in enumerate(whole):
            if length == len(sizes):
                words = f"stacked on axis {axis}"
                yield whole, axis, (*whole[:axis], *whole[axis + 1 :]), words
    for start, length in runs:
        for groups in _divisors(length):
            if groups > 1 and length % (groups * unit) == 0:
                read = (*whole[:start], groups, length // groups)
                words = f"in {groups} groups of {length // groups}"
                yield read, start + 1, (*whole[:start], -1), words


def _divisors(number: int) -> list[int]:
    small = [n for n in range(1, int(number**0.5) + 1) if number % n == 0]
    return sorted({*small, *(number // n for n in small)})


def _slicing(
    whole: Shape, reading: Reading, sizes: Sequence[int], order: tuple[int, ...]
) -> Slicing:
    read, axis, shape, way = reading
    total, length = sum(sizes), read[axis]
    cuts: dict[int, Cut] = {}
    start = 0
    for member in order:
        stop = start + sizes[member] * length // total
        features = sizes[member] // max(1, prod(n for n in shape if n != -1))
        own = tuple(features if n == -1 else n for n in shape)
        words = _place(whole, read, axis, start, stop)
        cuts[member] = Cut(read, axis, start, stop, own, words=words)
        start = stop
    return Slicing(way, tuple(cuts[n] for n in range(len(sizes))), order)


def _place(whole: Shape, read: Shape, axis: int, start: int, stop: int) -> str:
    """As numpy writes it: `[..., 0:64]`, `.reshape(2,12,4,24)[..., 0:8]`, `[:, 2]` on an axis of their own."""
    reshaped = "" if read == whole else f".reshape({','.join(map(str, read))})"
    if axis == len(read) - 1:
        return f"{reshaped}[..., {start}:{stop}]"
    return f"{reshaped}[{':, ' * axis}{start if stop == start + 1 else f'{start}:{stop}'}]"
