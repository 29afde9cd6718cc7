"""Layouts: which fit the shapes, and which one the elements have."""

from __future__ import annotations

from math import prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firstdiff.diff.inference import can_help, choose_layout
from firstdiff.diff.layout import broadcast, candidates, identity
from firstdiff.diff.measure import Side, measure
from firstdiff.traces.schema import Digest

SHAPES = st.lists(st.integers(1, 5), min_size=1, max_size=5).map(tuple)


def sides(reference: np.ndarray, port: np.ndarray) -> tuple[Side, Side]:
    return Side(reference, str(reference.dtype)), Side(np.ascontiguousarray(port), str(port.dtype))


def chosen(reference: np.ndarray, port: np.ndarray, noise: float = 1e-6):
    return choose_layout(*sides(reference, port), candidates(reference.shape, port.shape), noise)


def draw(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


@settings(deadline=None)
@given(SHAPES, st.randoms(use_true_random=False))
def test_every_permutation_is_found_and_undone(shape: tuple[int, ...], random) -> None:
    order = list(range(len(shape)))
    random.shuffle(order)
    value = np.arange(prod(shape), dtype=np.float32).reshape(shape)
    port = np.ascontiguousarray(value.transpose(order))
    fitting = candidates(value.shape, port.shape)
    assert any(np.array_equal(c.reference(value), c.port(port)) for c in fitting)


@settings(deadline=None)
@given(SHAPES, st.randoms(use_true_random=False))
def test_merged_axes_of_a_permutation_are_found(shape: tuple[int, ...], random) -> None:
    order = list(range(len(shape)))
    random.shuffle(order)
    fine = np.arange(prod(shape), dtype=np.float32).reshape(shape)
    moved = np.ascontiguousarray(fine.transpose(order))
    merged = moved.reshape(-1, moved.shape[-1])
    for reference, port in ((fine, merged), (merged, fine)):
        fitting = candidates(reference.shape, port.shape)
        assert any(np.array_equal(c.reference(reference), c.port(port)) for c in fitting)


@settings(deadline=None)
@given(SHAPES, SHAPES)
def test_every_candidate_keeps_every_element(
    reference: tuple[int, ...], port: tuple[int, ...]
) -> None:
    for layout in candidates(reference, port):
        value = np.arange(prod(port)).reshape(port)
        assert sorted(layout.port(value).reshape(-1)) == list(range(prod(port)))
        assert layout.reference(np.arange(prod(reference)).reshape(reference)).shape == layout.shape


def test_other_sizes_have_no_layout() -> None:
    assert candidates((2, 3), (2, 4)) == ()


@pytest.mark.parametrize(
    ("reference", "port", "words"),
    [
        ((2, 48, 256), (2, 48, 8, 32), "heads split (2,48,8,32) from (2,48,256)"),
        ((2, 48, 8, 32), (2, 48, 256), "heads merged (2,48,256) from (2,48,8,32)"),
        ((2, 48, 256), (96, 256), "tokens merged (96,256) from (2,48,256)"),
        ((1, 48, 256), (48, 256), "without an axis of 1: (48,256) from (1,48,256)"),
    ],
)
def test_words_of_a_reshape(reference: tuple[int, ...], port: tuple[int, ...], words: str) -> None:
    value = draw(*reference)
    layout = chosen(value, value.reshape(port))
    assert (layout.kind, layout.words) == ("reshape", words)


def test_heads_before_tokens() -> None:
    value = draw(2, 8, 12, 4)
    layout = chosen(value, value.transpose(0, 2, 1, 3))
    assert (layout.kind, layout.words) == ("permutation", "transposed (0,2,1,3)")


def test_axes_of_one_keep_their_place_in_the_words() -> None:
    value = draw(1, 8, 12, 4)
    assert chosen(value, value.transpose(0, 2, 1, 3)).words == "transposed (0,2,1,3)"


def test_heads_split_and_transposed() -> None:
    value = draw(2, 12, 32)
    port = value.reshape(2, 12, 8, 4).transpose(0, 2, 1, 3)
    layout = chosen(value, port)
    assert layout.kind == "reshape and permutation"
    assert layout.words == "heads split and transposed (2,8,12,4) from (2,12,32)"
    assert np.array_equal(layout.reference(value), layout.port(np.ascontiguousarray(port)))


def test_equal_axes_are_told_apart_by_value() -> None:
    value = draw(6, 6)
    assert chosen(value, value.T).words == "transposed (1,0)"
    assert chosen(value, value).kind == "identity"


def test_the_identity_stays_when_nothing_lands_near_the_floor() -> None:
    value = draw(6, 6)
    assert chosen(value, value.T + 0.05 * draw(6, 6)).kind == "identity"


def test_a_wrong_tensor_of_another_shape_takes_the_smallest_error() -> None:
    value = draw(2, 8, 12, 4)
    port = value.transpose(0, 2, 1, 3) + 0.4 * draw(2, 12, 8, 4)
    assert chosen(value, port).kind == "permutation"


def test_a_large_tensor_is_sampled() -> None:
    value = draw(3, 40, 40, 8)
    assert chosen(value, value.transpose(0, 2, 1, 3)).words == "transposed (0,2,1,3)"


def test_no_layout_helps_when_the_root_mean_squares_differ() -> None:
    def digest(rms: float) -> Digest:
        return Digest(8, 0, 0, 0, 0.0, rms, -1.0, 1.0, 0)

    assert not can_help(digest(1.0), digest(1.3), 1e-6)
    assert can_help(digest(1.0), digest(1.00001), 1e-6)
    assert can_help(digest(0.0), None, 1e-6)


def test_masks_may_lack_axes() -> None:
    layout = broadcast((2, 1, 5, 5), (5, 5))
    assert layout is not None
    assert layout.words == "broadcast (5,5) against (2,1,5,5)"
    assert layout.port(np.eye(5)).shape == (2, 1, 5, 5)
    assert broadcast((2, 5), (3, 5)) is None
    assert broadcast((2, 5), (2, 1)) is not None
    assert broadcast((2, 1), (1, 5)) is None


def test_the_reference_may_keep_one_row_for_all() -> None:
    layout = broadcast((1, 4), (3, 4))
    assert layout is not None
    found = measure(*sides(np.arange(4.0)[None], np.arange(12.0).reshape(3, 4)), layout)
    assert (found.worst, found.count) == ((2, 0), 12)


def test_the_identity_says_nothing() -> None:
    assert identity((2, 3)).words == ""
