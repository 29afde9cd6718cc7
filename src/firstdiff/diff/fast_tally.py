"""The fast way of adding to a tally: the compiled kernel's sums, taken over.."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from firstdiff.diff.kernel import (
    ERROR,
    ERROR2,
    FINITE,
    FIRST_UNLIKE,
    LARGEST,
    MISMATCH,
    OURS,
    PORT2,
    REFERENCE2,
    THEIRS,
    ULP,
    UNLIKE,
    WORST,
    add_bfloat16,
    add_float32,
)

if TYPE_CHECKING:
    from firstdiff.diff.tally import Specials, Tally


def add(
    tally: Tally, reference: np.ndarray, port: np.ndarray, start: int, *, ulp_shift: int | None
) -> None:
    """Add two contiguous 1-D arrays, both float32 or both the uint16 bits of bfloat16, to ``tally``.

    ``ulp_shift`` is 0 to count ULPs of float32, 16 for bfloat16 (whose numbers are every 65536th float32), None not
    to count them.
    """
    sums = np.array([0.0, 0.0, 0.0, 0.0, tally.largest])
    numbers = np.zeros(14, np.int64)
    numbers[WORST], numbers[FIRST_UNLIKE] = tally.worst, tally.first_unlike
    numbers[OURS + 3], numbers[THEIRS + 3] = tally.reference.first, tally.port.first
    run = add_float32 if reference.dtype == np.float32 else add_bfloat16
    run(reference, port, start, sums, numbers, ulp_shift is not None)
    _take_over(tally, sums.tolist(), numbers.tolist(), ulp_shift or 0)


def _take_over(tally: Tally, sums: list[float], numbers: list[int], shift: int) -> None:
    tally.error += sums[ERROR]
    tally.error_squared += sums[ERROR2]
    tally.reference_squared += sums[REFERENCE2]
    tally.port_squared += sums[PORT2]
    tally.largest, tally.worst = sums[LARGEST], numbers[WORST]
    tally.finite += numbers[FINITE]
    tally.mismatches += numbers[MISMATCH]
    tally.ulp = max(tally.ulp, float(numbers[ULP] >> shift))
    tally.unlike += numbers[UNLIKE]
    tally.first_unlike = numbers[FIRST_UNLIKE]
    _specials(tally.reference, numbers[OURS : OURS + 4])
    _specials(tally.port, numbers[THEIRS : THEIRS + 4])


def _specials(side: Specials, found: list[int]) -> None:
    side.nan += found[0]
    side.posinf += found[1]
    side.neginf += found[2]
    side.first = found[3]
