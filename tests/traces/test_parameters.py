"""Parameters that a trace holds in full: what was written is read, also after a stop, and by plain h5py."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from firstdiff.traces import Header, Key, TraceWriter, open_trace, recover
from firstdiff.traces.errors import CaptureError

VALUES: dict[str, tuple[np.ndarray, str]] = {
    "layers.0.q_proj.weight": (np.arange(12, dtype=np.float32).reshape(3, 4), "float32"),
    "layers.0.q_proj.bias": (np.arange(3, dtype=np.uint16) + 0x3F80, "bfloat16"),
    "scale": (np.float32(2.5).reshape(()), "float32"),
    "a/b%c": (np.arange(4, dtype=np.int64), "int64"),
}


def write(writer: TraceWriter) -> None:
    for name, (value, dtype) in VALUES.items():
        writer.write_parameter(name, value, dtype=dtype)
    writer.write(Key("norm", "output"), np.ones(3, np.float32), dtype="float32")


def same(path: Path, *, partial: bool = False) -> bool:
    with open_trace(path, partial=partial) as trace:
        assert list(trace.parameters) == list(VALUES)
        return all(
            found.dtype == VALUES[name][1] and np.array_equal(trace.stored(found), VALUES[name][0])
            for name, found in trace.parameters.items()
        )


def test_parameters_come_back(tmp_path: Path) -> None:
    with TraceWriter(tmp_path / "a.h5", Header("torch")) as writer:
        write(writer)
        path = writer.finish()
    assert same(path)
    with open_trace(path) as trace:
        assert [a.key.path for a in trace.activations] == ["norm"]


def test_a_stopped_capture_keeps_them(tmp_path: Path) -> None:
    with TraceWriter(tmp_path / "a.h5", Header("torch")) as writer:
        write(writer)
    assert same(tmp_path / "a.h5.part", partial=True)
    assert same(recover(tmp_path / "a.h5.part"))


def test_h5py_alone_reads_them(tmp_path: Path) -> None:
    with TraceWriter(tmp_path / "a.h5", Header("torch")) as writer:
        write(writer)
        path = writer.finish()
    with h5py.File(path) as file:
        weight = file["parameters/layers.0.q_proj.weight"][...]
        bias = file["parameters/layers.0.q_proj.bias"][...]
        rows = file["parameters_index"][()]
    assert np.array_equal(weight, VALUES["layers.0.q_proj.weight"][0])
    assert bias.tolist() == [1.0, 1.0078125, 1.015625]
    assert [row["path"].decode() for row in rows] == list(VALUES)


def test_a_trace_without_them_says_so(tmp_path: Path) -> None:
    with TraceWriter(tmp_path / "a.h5", Header("torch")) as writer:
        path = writer.finish()
    with open_trace(path) as trace:
        assert trace.parameters == {}


def test_a_name_is_written_once(tmp_path: Path) -> None:
    with TraceWriter(tmp_path / "a.h5", Header("torch")) as writer:
        write(writer)
        with pytest.raises(CaptureError, match="scale input was already written"):
            writer.write_parameter("scale", np.ones(1, np.float32), dtype="float32")
