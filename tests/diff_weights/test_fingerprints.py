"""Fingerprints: what changes them and what does not, and that the compiled kernel makes the same ones."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firstdiff.diff.weights import reading
from firstdiff.diff.weights.fingerprint import Fingerprint, fingerprint, fingerprint_all, kept_axes
from firstdiff.diff.weights.pages import Pages
from firstdiff.models.twins import parameters

RANDOM = np.random.default_rng(0)


def of(value: np.ndarray, *grains: str) -> Fingerprint:
    (record,) = parameters({"layer.weight": value})
    return fingerprint(record, grains or ("float32",))


@given(seed=st.integers(0, 99), order=st.permutations([0, 1, 2]))
@settings(max_examples=20, deadline=None)
def test_no_transpose_and_no_reshape_changes_the_hash(seed: int, order: list[int]) -> None:
    value = np.random.default_rng(seed).normal(size=(4, 6, 5)).astype(np.float32)
    assert of(value).hashes == of(value.transpose(order)).hashes == of(value.reshape(20, 6)).hashes


def test_fibres_are_the_hashes_of_rows_and_columns() -> None:
    value = RANDOM.normal(size=(3, 5, 4)).astype(np.float32)
    found = of(value).fibres["float32"]
    assert found[1][2, 3] == of(value[2, :, 3]).hashes["float32"]
    assert found[2][1, 4] == of(value[1, 4]).hashes["float32"]
    slices = of(value).slices("float32", 0)
    assert slices is not None
    assert [int(s) for s in slices] == [of(part).hashes["float32"] for part in value]


def test_one_changed_element_changes_its_row_and_its_column_only() -> None:
    value = RANDOM.normal(size=(8, 6)).astype(np.float32)
    other = value.copy()
    other[3, 4] = np.nextafter(other[3, 4], np.float32(9))
    ours, theirs = of(value).fibres["float32"], of(other).fibres["float32"]
    assert np.flatnonzero(ours[1] != theirs[1]).tolist() == [3]
    assert np.flatnonzero(ours[0] != theirs[0]).tolist() == [4]


def test_bfloat16_and_its_float32_copy_are_equal() -> None:
    rounded = RANDOM.normal(size=(6, 7)).astype(ml_dtypes.bfloat16)
    wide = rounded.astype(np.float32)
    assert of(rounded, "bfloat16").hashes == of(wide, "bfloat16").hashes
    ours, theirs = fingerprint_all(parameters({"w": wide}), parameters({"w": rounded}))
    assert ours[0].hashes == theirs[0].hashes


def test_moments_leave_out_what_is_not_finite() -> None:
    value = np.array([[1, 2], [np.nan, np.inf]], dtype=np.float32)
    found = of(value)
    assert (found.sum, found.squares, found.min, found.max) == (3, 5, 1, 2)


@pytest.mark.parametrize("shape", [(300, 40), (3, 200, 60), (7, 1000), (2, 3, 4, 500)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_compiled_kernel_makes_the_same_fingerprint(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], dtype: str
) -> None:
    pytest.importorskip("numba")
    value = RANDOM.normal(size=shape).astype(dtype if dtype == "float32" else ml_dtypes.bfloat16)
    grains = ("float32", "bfloat16") if dtype == "float32" else ("bfloat16",)
    plain = of(value, *grains)
    monkeypatch.setattr(reading, "COMPILE_FROM", 0)
    monkeypatch.setattr(reading, "COMPILED_BLOCK", 5000)
    compiled = of(value, *grains)
    assert compiled.hashes == plain.hashes
    assert (compiled.min, compiled.max) == (plain.min, plain.max)
    assert compiled.squares == pytest.approx(plain.squares, rel=1e-5)
    for grain in grains:
        for axis, found in plain.fibres[grain].items():
            np.testing.assert_array_equal(compiled.fibres[grain][axis], found)


def test_the_compiled_kernel_sees_what_is_not_finite(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("numba")
    monkeypatch.setattr(reading, "COMPILE_FROM", 0)
    for bad in (np.nan, -np.nan, np.inf, -np.inf):
        value = np.array([[1, -2], [3, bad]], dtype=np.float32)
        found = of(value)
        assert (found.sum, found.min, found.max) == (2, -2, 3)


def test_axes_with_too_many_fibres_are_left_out() -> None:
    assert kept_axes((4, 6)) == (0, 1)
    assert kept_axes((28, 4096, 14336)) == (1, 2)
    assert kept_axes((9,)) == ()


def test_pages_of_a_mapping_are_given_back_and_can_be_read_again(tmp_path: Path) -> None:
    file = tmp_path / "values"
    np.arange(100_000, dtype=np.float32).tofile(file)
    mapped = np.memmap(file, dtype=np.float32, mode="r")
    pages = Pages(mapped[10:].reshape(-1))
    assert mapped.sum() > 0
    pages.read(1 << 30)
    assert mapped[99_999] == 99_999
    written = np.memmap(file, dtype=np.float32, mode="c")
    written[0] = 7
    Pages(written).read(1 << 30)
    assert written[0] == 7
