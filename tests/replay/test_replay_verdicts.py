"""What a score of a replay means: luck of few elements, and one fault in several layers. Hand-made numbers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from firstdiff.diff.align import Pair
from firstdiff.diff.judge import Verdict, grade_of
from firstdiff.diff.layout import identity
from firstdiff.diff.local import MORE_ROUNDINGS, LocalFloor
from firstdiff.diff.replayed import ReplayRow, faults_of
from firstdiff.diff.row import Row
from firstdiff.traces import Activation, Key
from firstdiff.traces.dtypes import storage, unit_roundoff, widen
from firstdiff.traces.spread import spreads

UNIT = unit_roundoff("bfloat16")


def rounded(x: np.ndarray) -> np.ndarray:
    """``x`` to bfloat16, to nearest, even."""
    bits = np.asarray(x, np.float32).view(np.uint32)
    kept = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return widen(kept.astype(np.uint16), "bfloat16").astype(np.float64)


def scored(
    value: np.ndarray, native: np.ndarray, truth: np.ndarray, inflation: float = 1.0
) -> float:
    error, scale = spreads(value, truth)
    floor = LocalFloor(UNIT, spreads(native, truth)[0], inflation=inflation)
    return floor.score(error, scale).largest


def test_carriers_count_elements_of_equal_size() -> None:
    truth = np.ones((32, 16))
    truth[3, 5] = 1e3
    found = spreads(truth, truth)[1].carriers
    assert found is not None
    np.testing.assert_allclose(found.rows[0], 16)
    np.testing.assert_allclose(found.columns[0], 32)
    assert 1 <= found.rows[3] < 1.001
    assert 1 <= found.whole < 1.01
    empty = spreads(truth * 0, truth * 0)[1].carriers
    assert empty is not None
    assert np.isinf(empty.whole)


def test_padded_elements_carry_nothing() -> None:
    truth = np.ones((32, 16))
    truth[3] = 1e3
    valid = np.arange(32)[:, None] != 3
    found = spreads(truth, truth, valid)[1].carriers
    assert found is not None
    np.testing.assert_allclose(found.whole, 31 * 16)
    np.testing.assert_allclose(found.columns, 31)


def test_two_legal_roundings_of_one_large_channel_are_no_divergence() -> None:
    random = np.random.default_rng(0)
    worst = 0.0
    for _ in range(20):
        truth, scale = random.normal(size=(96, 64)), random.normal(size=64)
        truth[:, 7] *= 30
        twice = rounded(rounded(truth) * scale) / scale  # as a norm rounds before its scale
        worst = max(worst, scored(twice, rounded(truth), truth, MORE_ROUNDINGS))
    assert worst < 2.4


def test_an_error_of_a_few_roundings_in_one_row_is_a_divergence() -> None:
    random = np.random.default_rng(0)
    truth = random.normal(size=(96, 64))
    value = rounded(truth)
    value[5] *= 1 + 4 * UNIT
    assert grade_of(scored(value, rounded(truth), truth, MORE_ROUNDINGS)) != "OK"


def row(order: int, path: str, score: float, site: str = "output") -> ReplayRow:
    key = Key(path, site)
    activation = Activation(order, key, "float32", (4, 4))
    grade = grade_of(score)
    verdict = Verdict("agrees" if grade == "OK" else "diverges", score, grade)
    found = Row(path, verdict, Pair(activation, activation, "name"), layout=identity((4, 4)))
    return ReplayRow(found)


def test_a_mistake_is_a_fault_in_every_layer_once_it_is_one_in_any() -> None:
    rows = [
        row(0, "layers.0.mlp.gate_proj", 6.0),
        row(1, "layers.0.mlp.up_proj", 4.0),
        row(2, "layers.1.mlp.gate_proj", 9.0),
        row(3, "layers.2.mlp.gate_proj", 1.0),
        row(4, "layers.3.mlp.gate_proj", 5.0, "input"),
    ]
    faults, suspects, _ = faults_of(rows)
    assert [f.activation for f in faults] == ["layers.0.mlp.gate_proj", "layers.1.mlp.gate_proj"]
    assert [f.grade for f in faults] == ["WARN", "FAIL"]
    assert [f.activation for f in suspects] == ["layers.0.mlp.up_proj", "layers.3.mlp.gate_proj"]


def test_what_heals_in_one_layer_makes_no_fault_of_another() -> None:
    healed = row(2, "layers.1.norm", 9.0)
    healed = replace(healed, row=replace(healed.row, healed="layers.1"))
    faults, suspects, without = faults_of([row(0, "layers.0.norm", 6.0), healed])
    assert faults == []
    assert [f.activation for f in suspects] == ["layers.0.norm"]
    assert [f.activation for f in without] == ["layers.1.norm"]


def test_bits_of_the_helper_are_those_of_the_traces() -> None:
    value, dtype = storage(np.array([1.0, 1.0 + 2.0**-8, 1.0 + 3 * 2.0**-9], np.float32))
    assert dtype == "float32"
    np.testing.assert_array_equal(rounded(value), [1.0, 1.0, 1.0 + 2.0**-7])
