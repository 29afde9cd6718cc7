"""The rounding floor, its stand-ins, and what is judged by it."""

from __future__ import annotations

import numpy as np
import pytest

from firstdiff.diff.floor import Floors, coarser, run_dtype
from firstdiff.diff.judge import grade_of, judge, judge_exact, judge_kinds, judge_shapes
from firstdiff.diff.layout import identity
from firstdiff.diff.masks import alike_by_digest, is_mask, truth
from firstdiff.diff.measure import Measurement, Side, measure
from firstdiff.traces.digest import digest
from firstdiff.traces.schema import Activation, Digest, Key

U32, U16 = 2.0**-24, 2.0**-8
ROW = [("order", "i8"), ("error", "f8"), ("scale", "f8"), ("count", "i8")]


def activation(
    order: int = 0,
    dtype: str = "float32",
    site: str = "output",
    rms: float = 1.0,
    size: int = 100,
    **kind: float,
) -> Activation:
    numbers = {"min": -3.0, "max": 3.0, **kind}
    digest = Digest(size, 0, 0, 0, 0.0, rms, numbers["min"], numbers["max"], order)
    return Activation(order, Key("m", site, "x"), dtype, (size,), digest=digest)


def table(*rows: tuple[float, float]) -> np.ndarray:
    return np.array([(order, error, scale, 100) for order, (error, scale) in enumerate(rows)], ROW)


def found(error: float, norm: float, **fields: object) -> Measurement:
    return Measurement(
        100, 100, error / norm if norm else float("inf"), error, norm, norm, mismatch=1.0, **fields
    )


def test_the_floor_is_the_recorded_drift() -> None:
    a = activation()
    floor = Floors((a,), "float32", table((3e-6, 2.0))).of(a, a, 2.0, 100)
    assert floor.relative == pytest.approx(1.5e-6)
    assert floor.source == "recorded"


def test_the_floor_is_never_below_one_rounding() -> None:
    a = activation()
    assert Floors((a,), "float32", table((0.0, 2.0))).of(a, a, 2.0, 100).relative == 0.4 * U32


def test_a_float32_island_in_a_bfloat16_run_is_no_divergence_on_either_side() -> None:
    fine, coarse = activation(dtype="float32"), activation(dtype="bfloat16")
    floors = Floors((fine,), "bfloat16", table((1e-7, 1.0)))
    rounding = found(0.3 * U16, 1.0)
    for sides in ((fine, coarse), (coarse, fine)):
        verdict = judge(rounding, floors.of(*sides, 1.0, 100), *sides)
        assert (verdict.kind, verdict.score) == ("agrees", pytest.approx(0.75))
    assert verdict.notes == ("bfloat16 in the reference, float32 in the port",)
    assert judge(rounding, floors.of(fine, fine, 1.0, 100), fine, fine).kind == "diverges"


def test_a_bfloat16_island_in_a_float32_run_is_one() -> None:
    fine, coarse = activation(dtype="float32"), activation(dtype="bfloat16")
    floors = Floors((fine,), "float32", table((1e-7, 1.0)))
    assert (
        judge(found(0.3 * U16, 1.0), floors.of(fine, coarse, 1.0, 100), fine, coarse).grade
        == "FAIL"
    )


def test_a_zero_reference_is_judged_by_what_the_module_was_given() -> None:
    given, zero = activation(0, site="input", rms=2.0), activation(1, rms=0.0)
    floors = Floors((given, zero), "float32", table((0, 1), (0, 0)))
    floor = floors.of(zero, zero, 0.0, 100)
    assert floor.absolute == pytest.approx(0.4 * U32 * 2.0 * 10)
    assert judge(found(floor.absolute, 0.0), floor, zero, zero).kind == "agrees"
    assert judge(found(1e-3, 0.0), floor, zero, zero).kind == "diverges"
    assert judge(found(0.0, 0.0), floor, zero, zero).score == 0.0


def test_a_golden_zero_is_judged_by_its_absolute_drift() -> None:
    a = activation()
    floor = Floors((a,), "float32", table((1e-3, 0.0))).of(a, a, 1e-5, 100)
    assert judge(found(2e-3, 1e-5), floor, a, a).score == pytest.approx(2.0)


def test_tiny_tensors_take_their_neighbours_drift() -> None:
    neighbour, loss = activation(0), activation(1, size=1)
    floors = Floors((neighbour, loss), "float32", table((5e-6, 1.0), (0.0, 1.0)))
    assert floors.of(loss, loss, 1.0, 1).relative == pytest.approx(5e-6)
    assert Floors((loss,), "float32", table((0, 1), (0, 1))).of(loss, loss, 1.0, 1).relative == U32


@pytest.mark.parametrize(
    ("dtype", "unit", "multiple"),
    [("float32", U32, 85), ("bfloat16", U16, 11), ("float16", 2**-11, 21)],
)
def test_a_stand_in_is_named(dtype: str, unit: float, multiple: int) -> None:
    a = activation(dtype=dtype)
    floor = Floors((a,), dtype, None).of(a, a, 1.0, 100)
    assert floor.relative == multiple * unit
    assert floor.source == f"no floor recorded: {multiple} u stand-in for {dtype}"


def test_an_activation_without_a_floor_of_its_own() -> None:
    known, unknown = activation(0), activation(9)
    floor = Floors((known, unknown), "float32", table((1e-7, 1.0))).of(unknown, unknown, 1.0, 100)
    assert floor.source == "no floor recorded here: 85 u stand-in for float32"


def test_the_runs_dtype_is_what_most_activations_have() -> None:
    mixed = [activation(n, "bfloat16") for n in range(3)] + [
        activation(3, "float32"),
        activation(4, "int64"),
    ]
    assert run_dtype(mixed) == "bfloat16"
    assert run_dtype([activation(0, "int64")]) == ""
    assert coarser("float32", "bfloat16") == coarser("bfloat16", "") == "bfloat16"


@pytest.mark.parametrize(
    ("score", "grade"), [(0, "OK"), (2.99, "OK"), (3, "WARN"), (7.9, "WARN"), (8, "FAIL")]
)
def test_grades(score: float, grade: str) -> None:
    assert grade_of(score) == grade


def test_only_the_ports_own_non_finite_elements_are_a_fault() -> None:
    a = activation()
    floor = Floors((a,), "float32", None).of(a, a, 1.0, 100)
    one = Side(np.array([1.0, np.inf, 2.0], np.float32), "float32")
    other = Side(np.array([1.0, np.inf, np.nan], np.float32), "float32")
    layout = identity((3,))
    assert judge(measure(one, one, layout), floor, a, a).notes == ("1 +inf on both sides",)
    verdict = judge(measure(one, other, layout), floor, a, a)
    assert verdict.kind == "non-finite"
    assert verdict.notes == ("port has 1 NaN, 1 +inf; reference 1 +inf, first at [2]",)


def test_integers_of_two_widths_agree_when_their_values_do() -> None:
    one, other = Side(np.arange(4), "int64"), Side(np.arange(4, dtype=np.int32), "int32")
    a, b = activation(dtype="int64"), activation(dtype="int32")
    verdict = judge_exact(measure(one, other, identity((4,))), a, b)
    assert (verdict.kind, verdict.notes) == (
        "agrees",
        ("int64 in the reference, int32 in the port",),
    )
    other.stored[2] += 1
    verdict = judge_exact(measure(one, other, identity((4,))), a, b)
    assert (verdict.kind, verdict.grade, verdict.notes[-1]) == (
        "diverges",
        "FAIL",
        "25.00% of the elements differ",
    )


def test_an_integer_against_a_float() -> None:
    a, b = activation(dtype="int64"), activation(dtype="float32")
    one, other = Side(np.arange(4), "int64"), Side(np.arange(4, dtype=np.float32), "float32")
    assert judge_kinds(measure(one, other, identity((4,))), a, b).kind == "agrees"
    other.stored[0] = 0.5
    assert judge_kinds(measure(one, other, identity((4,))), a, b).kind == "dtype"


def test_shapes_that_do_not_fit() -> None:
    verdict = judge_shapes(activation(size=3), activation(size=4))
    assert (verdict.kind, verdict.notes) == ("shape", ("(3) against (4)",))


@pytest.mark.parametrize("fill", [-1e4, -1e9, float(np.finfo(np.float32).min), -np.inf])
def test_masks_of_every_kind_say_the_same(fill: float) -> None:
    seen = np.tri(5, dtype=bool)
    forms = [
        seen,
        seen.astype(np.int64),
        seen.astype(np.float32),
        np.where(seen, 0, fill).astype(np.float32),
    ]
    for form in forms:
        read = truth(Side(form, str(form.dtype)))
        assert read is not None
        assert np.array_equal(read, seen)


@pytest.mark.parametrize("fill", [-1e9, float(np.finfo(np.float32).min), -np.inf])
def test_masks_are_compared_by_their_digests(fill: float) -> None:
    """Whatever hides; with -inf only how many are hidden is known, for a sketch holds finite numbers."""
    seen = np.tri(50, dtype=bool)

    def mask(hidden: np.ndarray, by: float) -> Activation:
        value = np.where(hidden, by, 0).astype(np.float32)
        key = Key("m", "input", "attention_mask")
        return Activation(0, key, "float32", value.shape, digest=digest(value, "float32"))

    ours = mask(~seen, float(np.finfo(np.float32).min))
    assert alike_by_digest(ours, mask(~seen, fill)) is True
    assert alike_by_digest(ours, mask(~np.tri(50, k=1, dtype=bool), fill)) is False
    moved = mask(seen & ~np.eye(50, dtype=bool), fill)
    assert alike_by_digest(ours, moved) is (fill == -np.inf)
    bias = -np.abs(np.arange(2500.0).reshape(50, 50)) * 1e3
    assert alike_by_digest(ours, mask(~seen, 1.0)) is None
    number = Activation(0, ours.key, "float32", (50, 50), digest=digest(bias, "float64"))
    assert alike_by_digest(ours, number) is None


def test_numbers_are_no_mask() -> None:
    assert truth(Side(np.array([0.0, -3.0], np.float32), "float32")) is None
    assert truth(Side(np.array([0, 2]), "int64")) is None
    assert not is_mask(activation())
    assert is_mask(activation(min=-1e9, max=0.0))
    assert is_mask(activation(dtype="bool"))
    assert not is_mask(activation(dtype="int64"))
