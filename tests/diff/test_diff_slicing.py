"""Fused tensors: every way to cut them that ports use is found, and the elements decide which one it is."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firstdiff.diff.cutting import Member, fit
from firstdiff.diff.measure import Side
from firstdiff.diff.slicing import slicings

LIMIT = 1e-5


def side(value: np.ndarray) -> Side:
    return Side(np.ascontiguousarray(value), str(value.dtype))


def draw(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def flat(parts: list[np.ndarray], _groups: int) -> np.ndarray:
    return np.concatenate(parts, -1)


def grouped(parts: list[np.ndarray], groups: int) -> np.ndarray:
    """[..., groups, every member's share]: head-major in GPT-NeoX, by key-value group elsewhere."""
    lead = parts[0].shape[:-1]
    return np.concatenate([p.reshape(*lead, groups, -1) for p in parts], -1).reshape(*lead, -1)


def heads_apart(parts: list[np.ndarray], groups: int) -> np.ndarray:
    """[..., groups, share]: the same, not merged."""
    whole = grouped(parts, groups)
    return whole.reshape(*whole.shape[:-1], groups, -1)


def heads_first(parts: list[np.ndarray], groups: int) -> np.ndarray:
    """[batch, groups, tokens, share]."""
    return heads_apart(parts, groups).swapaxes(1, 2)


WAYS = {"flat": flat, "grouped": grouped, "heads apart": heads_apart, "heads first": heads_first}


def stacked(parts: list[np.ndarray], axis: int) -> np.ndarray:
    return np.stack(parts, axis)


@st.composite
def fused(draw_from: st.DrawFn) -> tuple[list[np.ndarray], np.ndarray]:
    """Members [batch, tokens, features] (grouped-query: k and v smaller), and one tensor that holds them."""
    integers = lambda low, high: draw_from(st.integers(low, high))
    batch, tokens, groups, width = integers(1, 3), integers(2, 5), integers(1, 4), integers(2, 4)
    queries, count = integers(1, 3), integers(2, 3)
    shares = [queries, 1, 1][:count] if draw_from(st.booleans()) else [1] * count
    seed = integers(0, 999)
    parts = [
        draw(seed + n, batch, tokens, groups * share * width) for n, share in enumerate(shares)
    ]
    order = draw_from(st.permutations(range(count)))
    if len(set(shares)) == 1 and draw_from(st.booleans()):
        return parts, stacked([parts[n] for n in order], integers(0, 2))
    way = WAYS[draw_from(st.sampled_from(sorted(WAYS)))]
    return parts, way([parts[n] for n in order], groups)


@settings(max_examples=300, deadline=None)
@given(fused())
def test_every_way_is_found_by_value(case: tuple[list[np.ndarray], np.ndarray]) -> None:
    parts, whole = case
    found = fit(side(whole), [Member(side(part)) for part in parts], LIMIT)
    assert found is not None
    assert found.fits(LIMIT)
    assert max(found.errors) == 0


@settings(max_examples=150, deadline=None)
@given(fused(), st.integers(0, 2))
def test_one_wrong_member_is_the_only_one_that_differs(
    case: tuple[list[np.ndarray], np.ndarray], place: int
) -> None:
    parts, whole = case
    wrong = place % len(parts)
    told = [
        part + 0.05 * draw(7, *part.shape) if n == wrong else part for n, part in enumerate(parts)
    ]
    found = fit(side(whole), [Member(side(part)) for part in told], LIMIT)
    assert found is not None
    assert [error > LIMIT for error in found.errors] == [n == wrong for n in range(len(parts))]
    assert found.others[wrong] == ""


@settings(max_examples=150, deadline=None)
@given(fused())
def test_cuts_of_one_slicing_do_not_overlap_and_leave_nothing(
    case: tuple[list[np.ndarray], np.ndarray],
) -> None:
    parts, whole = case
    numbers = np.arange(whole.size).reshape(whole.shape)
    for way in slicings(whole.shape, [part.size for part in parts]):
        taken = np.concatenate([cut.of(numbers).reshape(-1) for cut in way.cuts])
        assert sorted(taken) == list(range(whole.size))
        copy = np.zeros_like(numbers)
        for cut in way.cuts:
            cut.put(copy, cut.of(numbers))
        assert np.array_equal(copy, numbers)


def test_square_cases_are_decided_by_value() -> None:
    """Two heads of three channels, so that head-major and flat are equally possible for every member."""
    parts = [draw(n, 2, 6, 6) for n in range(3)]
    words = [
        fit(side(way(parts, 2)), [Member(side(p)) for p in parts], LIMIT) for way in (flat, grouped)
    ]
    assert [found.slicing.words for found in words if found] == [
        "one behind the other",
        "in 2 groups of 9",
    ]


def test_a_member_that_fits_elsewhere_is_told_where() -> None:
    """k was fused by head, q and v flat: no one order fits all."""
    q, k, v = (draw(n, 1, 4, 8) for n in range(3))
    whole = flat([q, k, v], 1)
    odd = whole.reshape(1, 4, 4, 6)[..., 2:4].reshape(1, 4, 8)
    found = fit(side(whole), [Member(side(m)) for m in (q, odd, v)], LIMIT)
    assert found is not None
    assert found.slicing.words == "one behind the other"
    assert [error <= LIMIT for error in found.errors] == [True, False, True]
    assert found.others == ("", ".reshape(1,4,4,6)[..., 2:4]", "")
    assert not np.array_equal(odd, k)


def test_the_usual_way_is_kept_where_it_fits() -> None:
    parts = [draw(n, 1, 4, 8) for n in range(3)]
    whole = side(flat([parts[1], parts[0], parts[2]], 1))
    first = fit(whole, [Member(side(p)) for p in parts], LIMIT)
    assert first is not None
    assert first.slicing.order == (1, 0, 2)
    again = fit(whole, [Member(side(p)) for p in parts], LIMIT, first.slicing)
    assert again is not None
    assert again.slicing is first.slicing


@pytest.mark.parametrize("sizes", [[], [24], [8, 8], [8, 8, 9]])
def test_sizes_that_do_not_add_up_have_no_slicing(sizes: list[int]) -> None:
    assert not list(slicings((1, 2, 12), sizes))
