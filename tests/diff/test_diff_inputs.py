"""Traces of different inputs are refused, by the name of the input."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from firstdiff.diff.inputs import InputCheck, check_inputs
from firstdiff.traces import Header, TraceWriter, open_trace
from firstdiff.traces.dtypes import storage
from firstdiff.traces.errors import InputMismatch

if TYPE_CHECKING:
    from pathlib import Path

IDS = np.array([[5, 6, 7, 8], [1, 2, 3, 4]])
MASK = np.array([[0, 0, 1, 1], [1, 1, 1, 1]])


@pytest.fixture
def check(tmp_path: Path):
    def run(reference: dict[str, np.ndarray], port: dict[str, np.ndarray]) -> InputCheck:
        paths = [
            _write(tmp_path / name, inputs)
            for name, inputs in (("ref.h5", reference), ("port.h5", port))
        ]
        with open_trace(paths[0]) as ours, open_trace(paths[1]) as theirs:
            return check_inputs(ours, theirs)

    return run


def _write(path: Path, inputs: dict[str, np.ndarray]) -> Path:
    with TraceWriter(path, Header("torch"), overwrite=True) as writer:
        for name, value in inputs.items():
            stored, dtype = storage(value)
            writer.write_input(name, stored, dtype=dtype)
        return writer.finish()


def refused(check, reference: dict[str, np.ndarray], port: dict[str, np.ndarray]) -> str:
    with pytest.raises(InputMismatch) as caught:
        check(reference, port)
    return str(caught.value)


def test_equal_values_in_two_widths(check) -> None:
    found = check({"input_ids": IDS}, {"input_ids": IDS.astype(np.int32)})
    assert found == InputCheck(("input_ids",), ())


def test_a_value_that_differs(check) -> None:
    other = IDS.copy()
    other[1, 2:] = 9
    assert refused(check, {"input_ids": IDS}, {"input_ids": other}) == (
        "ref.h5 and port.h5 were made from different inputs: input_ids first differs at [1,2]: 3 in the reference, "
        "9 in the port (2 of 8 elements differ); run the port on the reference's inputs: firstdiff check ref.h5 PORT"
    )


def test_a_shape_that_differs(check) -> None:
    message = refused(check, {"input_ids": IDS}, {"input_ids": IDS[:, :3]})
    assert (
        "input_ids has shape (2,4) in the reference and (2,3) in the port; run the port on"
        in message
    )


def test_a_mask_of_ones_on_one_side(check) -> None:
    found = check({"input_ids": IDS, "attention_mask": np.ones_like(IDS)}, {"input_ids": IDS})
    assert found.notes == (
        "Input attention_mask is given to one side only (ref.h5); it is all ones.",
    )


def test_a_mask_that_says_something_on_one_side(check) -> None:
    assert refused(check, {"input_ids": IDS, "attention_mask": MASK}, {"input_ids": IDS}) == (
        "ref.h5 was made with the input attention_mask (2,4), which the port was not given, and whose values say "
        "something: 2 of 8 elements are masked; give both sides the same inputs"
    )


@pytest.mark.parametrize(
    "positions", [np.arange(4)[None] + 0 * IDS, np.array([[1, 1, 0, 1], [0, 1, 2, 3]])]
)
def test_positions_that_count_the_tokens(check, positions: np.ndarray) -> None:
    both = {"input_ids": IDS, "attention_mask": MASK}
    found = check(both, both | {"position_ids": positions})
    assert found.notes == (
        "Input position_ids is given to one side only (port.h5); it counts the tokens, as is done without it.",
    )


def test_positions_of_another_origin(check) -> None:
    positions = np.arange(4)[None] + 2 + 0 * IDS
    message = refused(check, {"input_ids": IDS}, {"input_ids": IDS, "position_ids": positions})
    assert "the input position_ids (2,4), which the reference was not given" in message
    assert "[2, 3, 4, 5, ...]; give both sides the same inputs" in message


def test_another_name_for_equal_values(check) -> None:
    found = check({"input_ids": IDS}, {"tokens": IDS.astype(np.int32)})
    assert found.notes == ("Input input_ids is called tokens in the port; the values are equal.",)


def test_zeros_on_one_side(check) -> None:
    found = check({"input_ids": IDS, "token_type_ids": 0 * IDS}, {"input_ids": IDS})
    assert found.notes == (
        "Input token_type_ids is given to one side only (ref.h5); it is all zeros.",
    )


def test_pictures_in_another_layout(check) -> None:
    picture = np.random.default_rng(0).random((1, 3, 5, 5), np.float32)
    found = check(
        {"pixels": picture}, {"pixels": np.ascontiguousarray(picture.transpose(0, 2, 3, 1))}
    )
    assert found.notes == ("Input pixels: transposed (0,3,1,2), equal otherwise.",)


def test_floats_that_were_rounded(check) -> None:
    picture = np.random.default_rng(0).random((1, 3), np.float32)
    found = check({"pixels": picture}, {"pixels": picture.astype(np.float16)})
    assert found.notes == ("Input pixels: float32 against float16, equal up to rounding.",)
    assert "pixels first differs at [0,0]" in refused(
        check, {"pixels": picture}, {"pixels": picture + np.float32(1e-6)}
    )


def test_traces_without_inputs(check) -> None:
    assert check({}, {}).notes == (
        "Neither trace holds the model's inputs, so they could not be compared.",
    )
