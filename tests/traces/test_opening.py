"""What a path can be instead of a trace, and the sentences that say so."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import h5py
import numpy as np
import pytest

from firstdiff.traces import Header, Key, TraceError, TraceWriter, open_trace
from firstdiff.traces.complete import CompleteContents

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Write = Callable[..., Path]


def message(path: Path, *, partial: bool = False) -> str:
    with pytest.raises(TraceError) as caught:
        open_trace(path, partial=partial)
    return str(caught.value)


def test_missing_file(tmp_path: Path) -> None:
    path = tmp_path / "t.h5"
    assert message(path) == f"{path} does not exist."
    assert message(tmp_path / "no" / "t.h5") == f"{tmp_path}/no/t.h5 does not exist."


def test_missing_file_with_a_part_file(tmp_path: Path, write: Write) -> None:
    part = write(tmp_path / "t.h5", finish=False)
    assert message(tmp_path / "t.h5") == (
        f"{tmp_path}/t.h5 does not exist, but {part} does: its capture did not finish, or still runs. "
        f"Rescue what it holds with `firstdiff recover {part}`."
    )


def test_directory(tmp_path: Path) -> None:
    assert message(tmp_path) == f"{tmp_path} is a directory, not a trace."


def test_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "t.h5"
    path.touch()
    assert message(path) == f"{path} is not a trace: it is empty."


def test_text_file(tmp_path: Path) -> None:
    path = tmp_path / "t.h5"
    path.write_text("hello" * 1000)
    assert message(path) == f"{path} is not a trace: it is not an HDF5 file."
    assert message(path, partial=True) == f"{path} is not a trace: it is not an HDF5 file."


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads every file")
def test_file_without_permission(tmp_path: Path, write: Write) -> None:
    path = write(tmp_path / "t.h5")
    path.chmod(0)
    assert message(path) == f"{path} cannot be read (Permission denied)."


@pytest.mark.parametrize("libver", ["earliest", "latest"])
def test_other_hdf5_file(tmp_path: Path, libver: str) -> None:
    path = tmp_path / "t.h5"
    with h5py.File(path, "w", libver=libver) as file:
        file["x"] = np.zeros(10)
    assert message(path) == f"{path} is an HDF5 file, but not a trace of firstdiff."
    assert "is not a trace: it holds no journal of firstdiff." in message(path, partial=True)


def test_newer_format(tmp_path: Path, write: Write) -> None:
    path = write(tmp_path / "t.h5")
    with h5py.File(path, "r+") as file:
        file.attrs["format_version"] = 2
    expected = f"{path} has format version 2, this firstdiff reads up to 1; upgrade firstdiff."
    assert message(path) == expected


def test_part_file(tmp_path: Path, write: Write, values: dict[Key, np.ndarray]) -> None:
    part = write(tmp_path / "t.h5", finish=False)
    assert message(part) == (
        f"{part} is unfinished: its capture was stopped, or still runs. "
        f"Rescue what it holds with `firstdiff recover {part}`."
    )
    renamed = tmp_path / "renamed.h5"
    shutil.copy(part, renamed)
    assert message(renamed) == (
        f"{renamed} is unfinished: its capture was stopped. "
        f"Rescue what it holds with `firstdiff recover {renamed}`."
    )
    for path in (part, renamed):
        with open_trace(path, partial=True) as trace:
            assert not trace.complete
            assert [a.key for a in trace.activations] == list(values)
            for activation in trace.activations:
                assert np.array_equal(trace.stored(activation), values[activation.key])
            assert trace.input("input_ids").sum() == 47 * 24
            assert trace.tables == ("floor/free/float32",)


def test_truncated_file(tmp_path: Path, write: Write) -> None:
    path = write(tmp_path / "t.h5")
    size = path.stat().st_size
    os.truncate(path, size - 1)
    assert message(path) == (
        f"{path} is truncated: it has {size - 1} of {size} bytes. Copy it again, or rescue what it holds with "
        f"`firstdiff recover {path}`."
    )
    with open_trace(path, partial=True) as trace:
        assert len(trace.activations) == 6


def test_partial_opens_complete_traces_as_they_are(tmp_path: Path, write: Write) -> None:
    with open_trace(write(tmp_path / "t.h5"), partial=True) as trace:
        assert trace.complete
        assert trace.activations[0].digest is not None
        assert trace.activations[0].digest.sketch is not None


def test_a_file_that_is_being_written_can_be_read_by_another_process(tmp_path: Path) -> None:
    code = (
        "import sys; from firstdiff.traces import open_trace\n"
        "with open_trace(sys.argv[1], partial=True) as trace:\n"
        "    print(trace.stored(trace.activations[-1]).tolist())\n"
    )
    with TraceWriter(tmp_path / "t.h5", Header("torch")) as writer:
        for number in range(3):
            writer.write(Key("a", "output", call=number), np.array([number]), dtype="int64")
            command = [sys.executable, "-c", code, str(writer.part)]
            done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
            assert done.stdout.strip() == f"[{number}]"


def test_a_digest_only_trace_has_no_elements(tmp_path: Path, write: Write) -> None:
    with open_trace(write(tmp_path / "t.h5", digest_only=True)) as trace:
        assert all(activation.place is None for activation in trace.activations)
        assert trace.input("input_ids").shape == (1, 48)
        with pytest.raises(TraceError) as caught:
            trace.stored(trace.activations[0])
    assert str(caught.value) == (
        f"{tmp_path}/t.h5: the elements of layers.0.mlp output were not kept: the trace holds digests only. "
        "Capture again without --digest."
    )


def test_unknown_input_is_refused_by_name(tmp_path: Path, write: Write) -> None:
    with open_trace(write(tmp_path / "t.h5")) as trace, pytest.raises(TraceError) as caught:
        trace.input("mask")
    assert str(caught.value) == f"{tmp_path}/t.h5 has no input 'mask'; it has input_ids."


def test_a_repacked_trace_is_refused_with_the_way_back(tmp_path: Path, write: Write) -> None:
    path = write(tmp_path / "t.h5")
    with h5py.File(path, "r+") as file:
        rows = file["index"][()]
        del file["index"]
        file.create_dataset("index", data=rows, chunks=True, compression="gzip")
    with open_trace(path) as trace, pytest.raises(TraceError) as caught:
        _ = trace.activations
    assert str(caught.value) == (
        "The dataset '/index' is not contiguous: a trace that was repacked in chunks or compressed cannot be read. "
        "Undo it with `h5repack -l CONTI`."
    )


def test_opening_reads_no_more_than_the_header(
    tmp_path: Path, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "t.h5")
    monkeypatch.setattr(
        CompleteContents, "activations", lambda _: pytest.fail("the index was read")
    )
    with open_trace(path) as trace:
        assert trace.header.framework == "torch"
        assert len(trace.inputs) == 1
