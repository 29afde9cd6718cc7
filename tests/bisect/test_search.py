"""Binary search over cuts, without a model: how many questions it asks, and what healed differences do to it."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, log2

import pytest

from firstdiff.diff.bisection import last_fault, later_agreement, narrow, search_depth


class Asked:
    """Answers from a string of `.` (agrees) and `x` (differs), one a cut, and counts."""

    def __init__(self, cuts: str) -> None:
        self.cuts = cuts
        self.runs = 0
        self.places: list[int] = []

    def __call__(self, numbers: Sequence[int]) -> list[bool]:
        self.runs += 1
        self.places += numbers
        return [self.cuts[number] == "." for number in numbers]


@pytest.mark.parametrize("end", [1, 2, 3, 7, 30, 100, 1000])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_the_first_fault_takes_log_n_questions(end: int, share: float) -> None:
    bad = max(1, ceil(share * end))
    free = Asked("." * bad + "x" * (end - bad + 1))
    assert narrow(free, 0, end) == (bad - 1, bad)
    assert free.runs <= ceil(log2(end)) if end > 1 else free.runs == 0


def test_one_more_run_asks_whether_it_healed() -> None:
    free = Asked("." * 40 + "x" * 61)
    found = search_depth(free, 100)
    assert (found.good, found.bad, found.healed) == (39, 40, ())
    assert free.runs <= ceil(log2(100)) + 1
    assert free.places[-6:] == [41, 42, 44, 48, 56, 72]


def test_a_difference_that_heals_is_passed_over() -> None:
    free = Asked("....xxx......xxxx")
    found = search_depth(free, 16)
    assert (found.good, found.bad) == (12, 13)


def test_a_healed_difference_under_the_middle_does_not_mislead() -> None:
    free = Asked("......." + "xx" + "....." + "xxx")
    found = search_depth(free, 16)
    assert (found.good, found.bad) == (13, 14)
    assert found.healed == (7,)


def test_a_scan_decides_where_reading_is_cheap() -> None:
    free = Asked("......." + "xx" + "..x.." + "xxx")
    asked: list[int] = []

    def scan(later: int) -> int:
        asked.append(later)
        return max(k for k in range(later, 16) if free.cuts[k] == ".")

    found = search_depth(free, 16, scan=scan)
    assert (found.good, found.bad) == (13, 14)
    assert len(asked) == 1


def test_nothing_follows_the_last_cut() -> None:
    assert later_agreement(Asked("..x"), 2, 2) is None


@pytest.mark.parametrize("last", [0, 1, 5, 29])
def test_the_last_fault_takes_log_n_plantings(last: int) -> None:
    asked: list[int] = []

    def planted(cut: int) -> bool:
        asked.append(cut)
        return cut > last

    assert last_fault(planted, 0, 30) == last
    assert len(asked) <= 5
