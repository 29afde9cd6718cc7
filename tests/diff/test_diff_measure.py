"""Figures of a pair against a plain float64 computation, with numpy blocks and with the compiled kernel."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from firstdiff.diff.blocks import BLOCK, ValidRows, paired_blocks
from firstdiff.diff.layout import Layout, candidates, identity
from firstdiff.diff.measure import Measurement, Side, measure
from firstdiff.traces.dtypes import widen

BOTH = pytest.mark.parametrize("compiled", [False, True], ids=["numpy", "numba"])
SIZE = (3, 1000, 70)


def noisy(dtype: str, error: float = 1e-3, shape: tuple[int, ...] = SIZE) -> tuple[Side, Side]:
    rng = np.random.default_rng(3)
    one = rng.standard_normal(shape) * np.exp(rng.standard_normal(shape))
    return stored(one, dtype), stored(one * (1 + error * rng.standard_normal(shape)), dtype)


def stored(values: np.ndarray, dtype: str) -> Side:
    if dtype == "bfloat16":
        return Side((np.asarray(values, np.float32).view(np.uint32) >> 16).astype(np.uint16), dtype)
    return Side(np.asarray(values, dtype), dtype)


def naive(reference: Side, port: Side, valid: np.ndarray | None = None) -> dict[str, object]:
    """The definitions, in float64, on whole arrays."""
    a, b = (widen(s.stored, s.dtype).astype(np.float64) for s in (reference, port))
    chosen = np.ones(a.shape, bool) if valid is None else np.broadcast_to(valid, a.shape)
    chosen = chosen & np.isfinite(a) & np.isfinite(b)
    d = np.where(chosen, np.abs(np.where(chosen, b, 0) - np.where(chosen, a, 0)), -1)
    x, y = a[chosen], b[chosen]
    return {
        "valid": x.size,
        "relative_l2": np.linalg.norm(y - x) / np.linalg.norm(x),
        "max_abs": d.max(),
        "worst": tuple(int(i) for i in np.unravel_index(d.argmax(), d.shape)),
        "mean_abs": np.abs(y - x).mean(),
        "cosine": x @ y / np.linalg.norm(x) / np.linalg.norm(y),
        "mismatch": (x != y).mean(),
    }


def check(found: Measurement, expected: dict[str, object]) -> None:
    assert found.valid == expected["valid"]
    assert found.relative_l2 == pytest.approx(expected["relative_l2"], rel=1e-5)
    assert found.max_abs == pytest.approx(expected["max_abs"], rel=1e-6)
    assert found.worst == expected["worst"]
    assert found.mean_abs == pytest.approx(expected["mean_abs"], rel=1e-5)
    assert found.one_minus_cosine == pytest.approx(1 - expected["cosine"], rel=1e-4)
    assert found.mismatch == pytest.approx(expected["mismatch"])


@BOTH
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float64"])
def test_figures_are_those_of_a_plain_computation(dtype: str, compiled: bool) -> None:
    reference, port = noisy(dtype, 0.03)
    found = measure(reference, port, identity(SIZE), compiled=compiled)
    check(found, naive(reference, port))
    assert found.count == 3 * 1000 * 70


@BOTH
def test_mixed_dtypes(compiled: bool) -> None:
    reference, port = noisy("float32", 0.03)
    port = stored(port.stored, "bfloat16")
    found = measure(reference, port, identity(SIZE), compiled=compiled)
    check(found, naive(reference, port))


@BOTH
def test_padded_rows_stay_out_of_errors_but_not_out_of_the_search_for_nan(compiled: bool) -> None:
    reference, port = noisy("float32")
    valid = np.ones((3, 1000, 1), bool)
    valid[1, :300] = False
    valid[2, 999:] = False
    port.stored[1, :300] = 7e3
    port.stored[1, 5, 2] = np.nan
    found = measure(reference, port, identity(SIZE), valid, compiled=compiled)
    check(found, naive(reference, port, valid))
    assert found.port_nonfinite.nan == 1
    assert found.port_nonfinite.first == found.first_unlike == (1, 5, 2)
    assert found.unlike == 1


@BOTH
def test_non_finite_elements_are_counted_by_kind_and_left_out(compiled: bool) -> None:
    reference, port = noisy("float32")
    reference.stored[0, 0, 3] = port.stored[0, 0, 3] = -np.inf
    reference.stored[0, 1, 0] = port.stored[0, 1, 0] = np.nan
    port.stored[2, 999, 69] = np.inf
    found = measure(reference, port, identity(SIZE), compiled=compiled)
    check_without_mismatch = naive(reference, port)
    assert found.relative_l2 == pytest.approx(check_without_mismatch["relative_l2"], rel=1e-5)
    assert (found.reference_nonfinite.nan, found.reference_nonfinite.neginf) == (1, 1)
    assert (found.port_nonfinite.nan, found.port_nonfinite.posinf, found.port_nonfinite.neginf) == (
        1,
        1,
        1,
    )
    assert found.reference_nonfinite.first == (0, 0, 3)
    assert (found.unlike, found.first_unlike) == (1, (2, 999, 69))


@BOTH
@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e25])
def test_squares_beyond_float32_are_summed_all_the_same(scale: float, compiled: bool) -> None:
    reference, port = noisy("float32")
    reference, port = (Side((s.stored * np.float32(scale)), s.dtype) for s in (reference, port))
    check(measure(reference, port, identity(SIZE), compiled=compiled), naive(reference, port))


@BOTH
def test_blocks_of_zeros_count(compiled: bool) -> None:
    reference, port = noisy("float32")
    reference.stored[0], port.stored[0] = 0, 0
    port.stored[0, 500, 0] = 1e-22
    found = measure(reference, port, identity(SIZE), compiled=compiled)
    check(found, naive(reference, port))


@BOTH
def test_equal_tensors(compiled: bool) -> None:
    reference, _ = noisy("float32")
    found = measure(reference, reference, identity(SIZE), compiled=compiled)
    assert found.equal
    assert (found.relative_l2, found.max_abs, found.worst, found.max_ulp) == (0.0, 0.0, None, 0.0)


@BOTH
@pytest.mark.parametrize(
    ("dtype", "steps"), [("float32", 5), ("bfloat16", 3), ("float16", 4), ("float64", 2)]
)
def test_ulp_counts_representable_numbers(dtype: str, steps: int, compiled: bool) -> None:
    reference = stored(np.linspace(-3, 5, 3000), dtype)
    bits = reference.stored.view(f"i{reference.stored.dtype.itemsize}").copy()
    bits[17] += steps
    port = Side(bits.view(reference.stored.dtype), dtype)
    found = measure(reference, port, identity((3000,)), compiled=compiled)
    assert found.max_ulp == steps


@BOTH
def test_zeros_of_both_signs_are_one_number_and_signs_are_far_apart(compiled: bool) -> None:
    reference = Side(np.array([0.0, 1.0], np.float32), "float32")
    port = Side(np.array([-0.0, 1.0], np.float32), "float32")
    found = measure(reference, port, identity((2,)), compiled=compiled)
    assert (found.max_ulp, found.mismatch) == (0.0, 0.0)
    port.stored[1] = -1.0
    assert measure(reference, port, identity((2,)), compiled=compiled).max_ulp == 2 * 0x3F800000


def test_ulp_of_mixed_dtypes_is_that_of_the_coarser() -> None:
    reference = Side(np.array([1.0, 2.0, 3.001], np.float32), "float32")
    port = stored(np.array([1.0, 2.0, 3.0]), "bfloat16")
    assert measure(reference, port, identity((3,))).max_ulp == 0.0
    port.stored[1] += 2
    assert measure(reference, port, identity((3,))).max_ulp == 2.0


def test_cosine_keeps_its_digits_near_one() -> None:
    reference, port = noisy("float64", 1e-9)
    found = measure(reference, port, identity(SIZE))
    a, b = reference.stored.reshape(-1), port.stored.reshape(-1)
    wanted = np.square(b / np.linalg.norm(b) - a / np.linalg.norm(a)).sum() / 2
    assert found.one_minus_cosine == pytest.approx(wanted, rel=1e-3)
    assert found.one_minus_cosine < 1e-17


def test_scalars_and_empty_tensors() -> None:
    one, other = (
        Side(np.array(2.0, np.float32), "float32"),
        Side(np.array(3.0, np.float32), "float32"),
    )
    found = measure(one, other, identity(()))
    assert (found.relative_l2, found.worst, found.worst_port) == (0.5, (), 3.0)
    empty = Side(np.zeros((0, 4), np.float32), "float32")
    assert measure(empty, empty, identity((0, 4))).equal


def test_a_zero_reference_has_an_infinite_relative_error() -> None:
    zero, other = Side(np.zeros(3, np.float32), "float32"), Side(np.ones(3, np.float32), "float32")
    found = measure(zero, other, identity((3,)))
    assert found.relative_l2 == float("inf")
    assert found.one_minus_cosine is None


def test_large_integers_are_compared_exactly() -> None:
    one, other = np.array([2**53, 5]), np.array([2**53 + 1, 5])
    found = measure(Side(one, "int64"), Side(other, "int64"), identity((2,)))
    assert found.mismatch == 0.5


def test_complex_numbers() -> None:
    value = np.arange(8).reshape(2, 4) * (1 + 2j)
    one, other = (
        Side(value.astype(np.complex64), "complex64"),
        Side((value * 1.01).astype(np.complex64), "complex64"),
    )
    found = measure(one, other, identity((2, 4)))
    assert found.relative_l2 == pytest.approx(0.01, rel=1e-4)
    assert found.worst == (1, 3)


@BOTH
def test_a_transposed_port_is_read_in_blocks(compiled: bool) -> None:
    reference, port = noisy("float32")
    moved = Side(np.ascontiguousarray(port.stored.transpose(0, 2, 1)), "float32")
    layout = next(
        c for c in candidates(SIZE, moved.stored.shape) if c.words == "transposed (0,2,1)"
    )
    check(measure(reference, moved, layout, compiled=compiled), naive(reference, port))


@given(st.lists(st.integers(1, 9), min_size=1, max_size=4).map(tuple), st.integers(1, 64))
def test_blocks_cover_every_element_once(shape: tuple[int, ...], size: int) -> None:
    reference = np.arange(np.prod(shape)).reshape(shape)
    port = np.asfortranarray(reference)
    seen = []
    for start, one, other in paired_blocks(reference, port, size):
        assert np.array_equal(one, other)
        assert one[0] == start
        seen += one.tolist()
    assert seen == list(range(reference.size))


@given(st.integers(1, 3), st.integers(1, 6), st.integers(1, 4), st.randoms(use_true_random=False))
def test_runs_of_valid_rows(batch: int, tokens: int, width: int, random) -> None:
    valid = np.array([[random.random() < 0.5 for _ in range(tokens)] for _ in range(batch)])[
        ..., None
    ]
    shape = (batch, tokens, width)
    rows = ValidRows.of(valid, shape)
    flat = np.broadcast_to(valid, shape).reshape(-1)
    if rows is None:
        assert flat.all()
        return
    start = random.randrange(flat.size)
    covered = [flag for begin, end, flag in rows.runs(start, flat.size) for _ in range(begin, end)]
    assert covered == flat[start:].tolist()
    assert rows.count == flat.sum()


def test_memory_stays_bounded() -> None:
    import tracemalloc

    reference = Side(np.ones((40 * BLOCK,), np.float32), "float32")
    port = Side(reference.stored * np.float32(1.5), "float32")
    layout = Layout(
        "identity", (40 * BLOCK,), (20, 2 * BLOCK), (40 * BLOCK,), (2 * BLOCK, 20), (1, 0)
    )
    tracemalloc.start()
    measure(reference, port, layout)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12 * BLOCK * 8  # the port alone would take 40 blocks in float64
