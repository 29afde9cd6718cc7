"""Values found whatever their layout and rounding; nothing else ever called equal."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firstdiff.diff.fingerprint import fingerprint, of_digest
from firstdiff.diff.value_index import ValueIndex
from firstdiff.traces import Header, Key, TraceWriter, open_trace
from firstdiff.traces.digest import digest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from firstdiff.traces import Trace

    Maker = Callable[..., Trace]

BATCH, TOKENS, HEADS, WIDTH = 2, 7, 4, 6
BF16 = 2.0**-8
Entry = tuple[str, str, np.ndarray]


def bfloat16(values: np.ndarray) -> np.ndarray:
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + np.uint32(0x7FFF) + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)).view(
        np.float32
    )


@pytest.fixture
def traced(tmp_path: Path) -> Iterator[Maker]:
    opened: list[Trace] = []

    def make(*entries: Entry, digest_only: bool = False, mask: np.ndarray | None = None) -> Trace:
        path = tmp_path / f"{len(opened)}.h5"
        with TraceWriter(path, Header(framework="jax"), digest_only=digest_only) as writer:
            ids = np.arange(BATCH * TOKENS).reshape(BATCH, TOKENS)
            writer.write_input("input_ids", ids, dtype="int64")
            if mask is not None:
                writer.write_input("attention_mask", mask.astype(np.int64), dtype="int64")
            for name, site, value in entries:
                key = Key(name, "input" if site == "input" else "output", method="__call__")
                writer.write(key, np.ascontiguousarray(value), dtype=str(value.dtype))
            writer.finish()
        opened.append(open_trace(path))
        return opened[-1]

    yield make
    for trace in opened:
        trace.close()


def draw(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 1, shape).astype(np.float32)


HIDDEN = draw(0, BATCH, TOKENS, HEADS * WIDTH)
SPLIT = HIDDEN.reshape(BATCH, TOKENS, HEADS, WIDTH).transpose(0, 2, 1, 3)
LAYOUTS = {
    "the same": HIDDEN,
    "heads split": HIDDEN.reshape(BATCH, TOKENS, HEADS, WIDTH),
    "heads split and transposed": SPLIT,
    "keys, tokens last": SPLIT.transpose(0, 1, 3, 2),
    "tokens first": HIDDEN.transpose(1, 0, 2),
    "tokens flat": HIDDEN.reshape(BATCH * TOKENS, -1),
}


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.permutations(range(4)), st.sampled_from(["f4", "bf16"]))
def test_fingerprint_bounds_the_error_in_every_layout(
    seed: int, order: list[int], rounding: str
) -> None:
    one = draw(seed, 3, 5, 4, 6)
    other = (
        bfloat16(one) if rounding == "bf16" else one + np.float32(1e-4) * draw(seed + 1, 3, 5, 4, 6)
    )
    error = float(np.linalg.norm(other.astype(np.float64) - one))
    moved = fingerprint(np.ascontiguousarray(other.transpose(order)))
    assert fingerprint(one).distance(moved) <= error * (1 + 1e-9) + 1e-12
    assert of_digest(digest(one, "float32")).distance(moved) <= error * (1 + 1e-6) + 1e-9
    assert fingerprint(one).same(fingerprint(np.ascontiguousarray(one.transpose(order))))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32))
def test_fingerprint_tells_tensors_of_one_distribution_apart(seed: int) -> None:
    one, other = fingerprint(draw(seed, 6, 64)), fingerprint(draw(seed + 1, 6, 64))
    assert one.excludes(other, 2 * BF16)


def test_fingerprint_of_other_sizes_and_other_infinities_is_never_equal() -> None:
    one = draw(0, 4, 4)
    odd = one.copy()
    odd[0, 0] = np.inf
    assert fingerprint(one).distance(fingerprint(draw(0, 4, 5))) == inf
    assert fingerprint(one).distance(fingerprint(odd)) == inf
    assert fingerprint(odd).distance(fingerprint(odd.T)) == 0.0


@pytest.mark.parametrize("name", LAYOUTS)
def test_value_is_found_in_another_layout(name: str, traced: Maker) -> None:
    trace = traced(("other", "output", draw(1, *HIDDEN.shape)), ("it", "output", LAYOUTS[name]))
    found = ValueIndex(trace).equals(HIDDEN, 1e-6)
    assert found.only is not None
    assert [a.key.path for a in found.only.activations] == ["it"]
    laid = found.only.laid
    np.testing.assert_array_equal(
        laid.layout.port(np.ascontiguousarray(LAYOUTS[name])), laid.layout.reference(HIDDEN)
    )


def test_value_is_found_without_its_batch_axis_and_rounded(traced: Maker) -> None:
    one = HIDDEN[:1]
    trace = traced(("it", "output", bfloat16(one[0])), ("other", "output", draw(1, *one.shape)))
    found = ValueIndex(trace).equals(one, BF16)
    assert found.only is not None
    assert found.only.value.first.key.path == "it"
    assert 0 < found.only.laid.error < BF16
    assert not ValueIndex(trace).equals(one, 1e-6).matches


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32))
def test_unrelated_values_are_never_equal(seed: int) -> None:
    value = draw(seed, 4, 8, 8)
    assert all(
        fingerprint(value).excludes(fingerprint(draw(seed + n, 4, 8, 8)), 3 * BF16)
        for n in (1, 2, 3)
    )


def test_same_numbers_in_no_layout_are_not_equal(traced: Maker) -> None:
    shuffled = np.random.default_rng(3).permutation(HIDDEN.reshape(-1)).reshape(HIDDEN.shape)
    trace = traced(("shuffled", "output", shuffled))
    assert not ValueIndex(trace).equals(HIDDEN, 0.01).matches


def test_constant_value_is_ambiguous(traced: Maker) -> None:
    ones = np.ones((3, 4), np.float32)
    trace = traced(("mask", "output", ones))
    found = ValueIndex(trace).equals(ones, 1e-6)
    assert found.only is None
    assert found.ambiguous == "all its elements are equal"


def test_value_computed_twice_is_ambiguous_and_passed_on_is_not(traced: Maker) -> None:
    passed = traced(
        ("linear", "output", HIDDEN),
        ("split", "input", HIDDEN),
        ("split", "output", SPLIT),
        ("attention", "input", SPLIT),
    )
    found = ValueIndex(passed).equals(HIDDEN, 1e-6)
    assert found.only is not None
    assert [a.key.path for a in found.only.activations] == ["linear", "split", "split", "attention"]
    assert [a.key.path for a in found.only.value.producers] == ["linear"]
    twice = traced(("linear", "output", HIDDEN), ("copy", "output", SPLIT))
    assert ValueIndex(twice).equals(HIDDEN, 1e-6).ambiguous == "it was computed 2 times"


def test_parent_that_returns_its_childs_result_made_nothing(traced: Maker) -> None:
    trace = traced(("mlp.down", "output", HIDDEN), ("mlp", "output", HIDDEN))
    (value,) = ValueIndex(trace).all_values()
    assert [a.key.path for a in value.producers] == ["mlp.down"]


def test_two_values_within_the_tolerance_are_ambiguous(traced: Maker) -> None:
    near = (HIDDEN * np.float32(1 + 1e-3)).astype(np.float32)
    trace = traced(("near", "output", near), ("it", "output", HIDDEN))
    found = ValueIndex(trace).equals(HIDDEN, 0.01)
    assert found.ambiguous == "2 different values lie within the tolerance"
    assert found.matches[0].value.first.key.path == "it"


def test_padded_tokens_do_not_count_in_any_layout(traced: Maker) -> None:
    mask = np.ones((BATCH, TOKENS), bool)
    mask[1, :2] = False
    garbage = HIDDEN.copy()
    garbage[1, :2] = 77.0
    for layout in ("the same", "heads split and transposed"):
        other = (
            garbage
            if layout == "the same"
            else garbage.reshape(BATCH, TOKENS, HEADS, WIDTH).transpose(0, 2, 1, 3)
        )
        found = ValueIndex(traced(("it", "output", other), mask=mask)).equals(HIDDEN, 1e-6)
        assert found.only is not None
        assert found.only.laid.error == 0.0


def test_nearest_says_where_it_is_equal(traced: Maker) -> None:
    rotated = HIDDEN.reshape(BATCH, TOKENS, HEADS, WIDTH).copy()
    rotated[:, 1:] += draw(4, BATCH, TOKENS - 1, HEADS, WIDTH)
    heads = SPLIT.copy()
    heads[:, 2] += 1
    index = ValueIndex(
        traced(("far", "output", draw(9, *HIDDEN.shape)), ("rope", "output", rotated))
    )
    near = index.nearest(HIDDEN, 1e-6)
    assert near is not None
    assert near.activation.key.path == "rope"
    assert near.likeness.words == "equal at position 0 only"
    near = ValueIndex(traced(("attention", "output", heads))).nearest(HIDDEN, 1e-6)
    assert near is not None
    assert near.likeness.words == "equal except in head 2"
    assert near.likeness.agreeing == (0, 1, 3)


def test_nearest_counts_positions_from_the_first_real_token(traced: Maker) -> None:
    mask = np.ones((BATCH, TOKENS), bool)
    mask[1, :3] = False
    other = HIDDEN + draw(4, *HIDDEN.shape)
    other[0, 0], other[1, 3] = HIDDEN[0, 0], HIDDEN[1, 3]
    near = ValueIndex(traced(("it", "output", other), mask=mask)).nearest(HIDDEN, 1e-6)
    assert near is not None
    assert near.likeness.words == "equal at position 0 only"


def test_nothing_of_that_size_has_no_nearest(traced: Maker) -> None:
    index = ValueIndex(traced(("it", "output", draw(0, 3, 3))))
    assert index.nearest(HIDDEN) is None
    assert not index.equals(HIDDEN, 1.0).matches


def test_integers_and_floats_never_equal_each_other(traced: Maker) -> None:
    numbers = np.arange(12).reshape(3, 4)
    index = ValueIndex(traced(("ids", "output", numbers), ("ids.float", "output", numbers * 1.0)))
    (match,) = index.equals(numbers.astype(np.int32), 0.5).matches
    assert match.value.first.key.path == "ids"
    changed = numbers.copy()
    changed[2, 3] = 99
    assert not index.equals(changed, 0.5).matches


def test_digests_find_what_lies_in_the_same_order(traced: Maker) -> None:
    entries = ("it", "output", HIDDEN), ("other", "output", draw(1, *HIDDEN.shape))
    index = ValueIndex(traced(*entries, digest_only=True))
    found = index.equals(HIDDEN.reshape(BATCH * TOKENS, -1), 1e-5)
    assert found.only is not None
    assert found.only.value.first.key.path == "it"
    assert found.only.laid.estimated
    assert not index.equals(np.ascontiguousarray(SPLIT), 1e-5).matches
