"""How the rows of one parameter lie in another, in words: slices, heads, rotary pairs, permutations.

Input is where each row of a region was found, numbers alone, so that one recogniser serves every layout.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations
from math import prod
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

Kind = Literal["whole", "slice", "blocks", "axes", "rotary", "regrouped", "heads", "permuted"]


@dataclass(frozen=True)
class Pattern:
    """Where the k-th of m rows lies among n."""

    kind: Kind
    """`whole`: in order, and all of them; `slice`: in order; `blocks`: every S-th block of D; `axes`: axes exchanged;
    `rotary`: pairs of each head regrouped; `regrouped`: two factors exchanged; `heads`: blocks in another order."""
    words: str
    """For people; empty for `whole`."""

    @property
    def natural(self) -> bool:
        """Whether it only says which part, not that the order was changed."""
        return self.kind in ("whole", "slice", "blocks")


def recognise(places: np.ndarray, extent: int, shape: Sequence[int] = ()) -> Pattern:
    """The plainest pattern of ``places``, int[m]: where rows 0..m-1 lie among ``extent``.

    ``shape`` is that of the rows, where they stand for several axes.
    """
    m = len(places)
    start = int(places.min())
    local = places - start
    if np.array_equal(local, np.arange(m)):
        return _straight(start, m, extent)
    for test in (_blocks, _axes, _rotary, _regrouped, _heads):
        found = test(local, start, extent, tuple(shape))
        if found is not None:
            return found
    return Pattern("permuted", f"{m} rows in another order")


def rotary(size: int, *, to_interleaved: bool) -> np.ndarray:
    """Where each channel of a head goes when halves become pairs (``to_interleaved``), or pairs become halves."""
    half = size // 2
    there = np.concatenate([np.arange(0, size, 2), np.arange(1, size, 2)])
    return there if to_interleaved else np.argsort(there) if half else there


def _straight(start: int, m: int, extent: int) -> Pattern:
    if m == extent:
        return Pattern("whole", "")
    return Pattern("slice", f"[{start}:{start + m}] of {extent}")


def run_length(local: np.ndarray) -> int:
    """Length D of the blocks into which ``local`` falls: the longest that divides it and is consecutive inside."""
    breaks = np.flatnonzero(np.diff(local) != 1) + 1
    if not breaks.size:
        return len(local)
    return int(np.gcd.reduce(np.append(breaks, len(local))))


def _blocks(local: np.ndarray, start: int, extent: int, _shape: tuple[int, ...]) -> Pattern | None:
    """Equal blocks at equal distances, ascending: what a fused head-major projection holds."""
    d = run_length(local)
    first = local[::d]
    steps = np.diff(first)
    if not steps.size or (steps != steps[0]).any() or steps[0] <= d or extent % int(steps[0]):
        return None
    offset, stride = start % int(steps[0]), int(steps[0])
    what = "interleaved" if d == 1 else "head-major"
    return Pattern("blocks", f"{what}: [{offset}:{offset + d}] of every {stride} of {extent}")


def _axes(local: np.ndarray, start: int, extent: int, shape: tuple[int, ...]) -> Pattern | None:
    if not 2 <= len(shape) <= 4 or prod(shape) != len(local):
        return None
    grid = np.arange(len(local)).reshape(shape)
    for order in permutations(range(len(shape))):
        if np.array_equal(np.argsort(local), grid.transpose(order).reshape(-1)):
            part = _straight(start, len(local), extent).words
            return Pattern("axes", f"axes {order}" + (f", {part}" if part else ""))
    return None


def _rotary(local: np.ndarray, start: int, extent: int, _shape: tuple[int, ...]) -> Pattern | None:
    m = len(local)
    for size in divisors(m):
        if size % 2 or size < 4:
            continue
        heads = local.reshape(-1, size)
        first = heads.min(axis=1)
        inside = heads - first[:, None]
        if (inside != inside[0]).any() or (np.diff(first) < size).any():
            continue
        for to_interleaved in (True, False):
            if np.array_equal(inside[0], rotary(size, to_interleaved=to_interleaved)):
                way = "half-split to interleaved" if to_interleaved else "interleaved to half-split"
                part = "" if m == extent else f", from [{start}] of {extent}"
                return Pattern("rotary", f"rotary pairs {way} in heads of {size}{part}")
    return None


def _regrouped(
    local: np.ndarray, start: int, extent: int, _shape: tuple[int, ...]
) -> Pattern | None:
    d = run_length(local)
    blocks = local[::d] // d
    m = len(blocks)
    if (local[::d] % d).any():
        return None
    for size in divisors(m):
        if 1 < size < m and np.array_equal(blocks.reshape(-1, size), _exchanged(m, size)):
            part = _straight(start, len(local), extent).words
            what = f"({m // size}, {size}" + (f", {d})" if d > 1 else ")")
            other = f"({size}, {m // size}" + (f", {d})" if d > 1 else ")")
            return Pattern("regrouped", f"{what} as {other}" + (f", {part}" if part else ""))
    return None


def _exchanged(m: int, size: int) -> np.ndarray:
    """Where (i, j) of a (m/size, size) grid lies when the axes are exchanged: j * (m/size) + i."""
    return np.arange(m).reshape(size, -1).T


def _heads(local: np.ndarray, start: int, extent: int, _shape: tuple[int, ...]) -> Pattern | None:
    d = run_length(local)
    if d < 2:
        return None
    first = local[::d]
    order = ",".join(str(n) for n in (first // d)[:8])
    more = ",.." if len(first) > 8 else ""
    aligned = not (first % d).any()
    del start
    return Pattern(
        "heads",
        f"blocks of {d} in another order ({order}{more})"
        if aligned
        else f"blocks of {d} scattered over {extent}",
    )


def divisors(number: int) -> Iterator[int]:
    """Divisors of ``number``, ascending."""
    return (
        (d for d in range(1, number + 1) if number % d == 0) if number < 4096 else _by_pairs(number)
    )


def _by_pairs(number: int) -> Iterator[int]:
    small = [d for d in range(1, int(number**0.5) + 1) if number % d == 0]
    return iter(sorted({*small, *(number // d for d in small)}))
