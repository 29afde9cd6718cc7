"""Distances of sketches estimate distances of tensors, wherever in the tensor the error lies."""

from __future__ import annotations

import numpy as np
import pytest

from firstdiff.traces import digest
from firstdiff.traces.sketch import BLOCK, PERIOD, Sketch, _bucket_table, _sign_table

SHAPES = (
    (48, 896),
    (1, 64, 4096),
    (2, 300, 1024),
    (7, 33),
    (1, 12, 128, 128),
    (500, 65),
)


def sketch(array: np.ndarray) -> np.ndarray:
    found = digest(np.ascontiguousarray(array), str(array.dtype)).sketch
    assert found is not None
    return found


def errors(shape: tuple[int, ...], kind: str, rng: np.random.Generator) -> np.ndarray:
    """An error of unit size at one kind of place."""
    error = np.zeros(shape)
    table = error.reshape(-1, shape[-1])
    row, column = rng.integers(table.shape[0]), rng.integers(table.shape[1])
    if kind == "dense":
        table[:] = rng.standard_normal(table.shape)
    elif kind == "channel":
        table[:, column] = 1.0
    elif kind == "row":
        table[row] = 1.0
    elif kind == "position":
        table[row, column] = 1.0
    elif kind == "later rows":
        table[row:] = rng.standard_normal(table[row:].shape)
    return error


@pytest.mark.parametrize("kind", ["dense", "channel", "row", "position", "later rows"])
def test_distances_are_kept(kind: str) -> None:
    rng = np.random.default_rng(11)
    ratios = []
    for shape in SHAPES:
        for _ in range(12):
            value = rng.standard_normal(shape).astype(np.float64)
            error = errors(shape, kind, rng)
            found = np.linalg.norm(sketch(value + error) - sketch(value))
            ratios.append(found / np.linalg.norm(error))
    mean, spread = float(np.mean(ratios)), float(np.std(ratios))
    print(f"{kind}: {mean:.3f} +- {spread:.3f}, {min(ratios):.2f} to {max(ratios):.2f}")
    assert mean == pytest.approx(0.98, abs=0.05)
    assert spread < 0.15


def test_one_changed_element_is_seen_in_full() -> None:
    value = np.zeros(10 * BLOCK)
    for place in (0, PERIOD, BLOCK, 10 * BLOCK - 1):
        changed = value.copy()
        changed[place] = 3.0
        assert np.linalg.norm(sketch(changed)) == pytest.approx(3.0)


def test_it_is_linear() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, BLOCK + 777))
    assert np.allclose(sketch(a + 2 * b), sketch(a) + 2 * sketch(b), rtol=0, atol=1e-9)


def test_buckets_and_signs_by_definition() -> None:
    """The fast sums are those of element i having sign i and bucket i mod PERIOD in its block."""
    rng = np.random.default_rng(1)
    for size in (1, 63, PERIOD - 1, PERIOD + 5, 3 * PERIOD, BLOCK):
        numbers = rng.standard_normal(size)
        buckets = _bucket_table()[np.arange(size) % PERIOD]
        plain = np.bincount(buckets, weights=numbers * _sign_table()[:size], minlength=64)
        fast = Sketch()
        fast.add(numbers)
        assert np.allclose(np.sort(np.abs(fast.result())), np.sort(np.abs(plain)), rtol=1e-9)


def test_buckets_are_evenly_filled_and_signs_balanced() -> None:
    filled = np.bincount(_bucket_table(), minlength=64)
    assert filled.min() > 35
    assert filled.max() < 100
    assert abs(_sign_table().mean()) < 0.02


def test_blocks_have_signs_of_their_own() -> None:
    """The same error in every block must not add up to a multiple: blocks are independent."""
    rng = np.random.default_rng(2)
    block = rng.standard_normal(BLOCK)
    ratio = np.linalg.norm(sketch(np.tile(block, 64))) / (np.linalg.norm(block) * 8)
    assert ratio == pytest.approx(1.0, abs=0.25)


def test_it_is_part_of_the_format() -> None:
    """Sketches of old and new files are compared: a change here is a new format version."""
    found = sketch(np.arange(2 * BLOCK, dtype=np.float32))
    assert found[:4].tolist() == [-212306.0, 1772902.0, -534048.0, -852986.0]
