"""Model inputs from the command line and from files."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from firstdiff.inputs import host_inputs, parse_input_ids, read_inputs
from firstdiff.traces import Header, TraceWriter
from firstdiff.traces.dtypes import widen
from firstdiff.traces.errors import OptionError

IDS = np.array([[3, 1, 4], [1, 5, 9]])


@pytest.mark.parametrize("text", ["3,1,4;1,5,9", "3, 1, 4; 1, 5, 9;", "[[3,1,4],[1,5,9]]"])
def test_rows_of_ids(text: str) -> None:
    found = parse_input_ids(text)["input_ids"]
    assert found.dtype == "int64"
    np.testing.assert_array_equal(found.value, IDS)


def test_one_row_is_a_batch_of_one() -> None:
    assert parse_input_ids("7,8")["input_ids"].value.shape == (1, 2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,b", "not integers; write 1,2,3"),
        ("", "not integers"),
        ("1,2;3", "rows of 1 and 2 ids; pad them to one length"),
    ],
)
def test_ids_that_are_none(text: str, message: str) -> None:
    with pytest.raises(OptionError) as caught:
        parse_input_ids(text)
    assert message in str(caught.value)


def test_npz(tmp_path: Path) -> None:
    np.savez(tmp_path / "in.npz", input_ids=IDS, scale=np.float32(0.5))
    found = read_inputs(tmp_path / "in.npz")
    np.testing.assert_array_equal(found["input_ids"].value, IDS)
    assert found["scale"].dtype == "float32"


def test_npz_with_pickled_objects_is_not_executed(tmp_path: Path) -> None:
    np.savez(tmp_path / "in.npz", x=np.array([object()]))
    with pytest.raises(OptionError, match=r"not a readable \.npz"):
        read_inputs(tmp_path / "in.npz")


def test_safetensors_keeps_bfloat16(tmp_path: Path) -> None:
    pixels = torch.randn(2, 3).to(torch.bfloat16)
    save_file(
        {"pixel_values": pixels, "mask": torch.tensor([True, False])}, tmp_path / "in.safetensors"
    )
    found = read_inputs(tmp_path / "in.safetensors")
    assert found["pixel_values"].dtype == "bfloat16"
    np.testing.assert_array_equal(widen(*found["pixel_values"]), pixels.float().numpy())
    assert found["mask"].dtype == "bool"


def test_a_trace_gives_the_inputs_it_was_made_with(tmp_path: Path) -> None:
    with TraceWriter(tmp_path / "t.h5", Header(framework="torch")) as writer:
        writer.write_input("input_ids", IDS, dtype="int64")
        writer.finish()
    np.testing.assert_array_equal(read_inputs(tmp_path / "t.h5")["input_ids"].value, IDS)


def test_arrays_of_any_framework_are_taken() -> None:
    found = host_inputs(
        {
            "a": torch.ones(2, dtype=torch.bfloat16),
            "b": [[1, 2]],
            "c": np.ones(3, ml_dtypes.bfloat16),
        }
    )
    assert [found[name].dtype for name in "abc"] == ["bfloat16", "int64", "bfloat16"]
    np.testing.assert_array_equal(found["a"].value, found["c"].value[:2])


def test_files_that_hold_no_inputs(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "bad.safetensors").write_bytes(b"\xff" * 64)
    np.savez(tmp_path / "empty.npz")
    for name, message in {
        "missing.npz": "no such file; give a .npz, a .safetensors or a trace",
        "notes.txt": "not a .npz, .safetensors or trace",
        "bad.safetensors": "not a readable .safetensors",
        "empty.npz": "holds no tensor",
    }.items():
        with pytest.raises(OptionError) as caught:
            read_inputs(tmp_path / name)
        assert message in str(caught.value)
