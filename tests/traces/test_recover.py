"""Rescuing what is left of a capture: everything committed, nothing destroyed, and a note that says what is missing."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np
import pytest

from firstdiff.traces import (
    Axis,
    Header,
    Key,
    TraceError,
    TraceWriter,
    open_trace,
    recover,
)
from firstdiff.traces.journal import find_journal
from firstdiff.traces.mapping import Mapping

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Write = Callable[..., Path]


def refusal(path: Path, output: Path | None = None) -> str:
    with pytest.raises(TraceError) as caught:
        recover(path, output)
    return str(caught.value)


def test_everything_of_a_part_file_comes_back(
    tmp_path: Path, write: Write, values: dict[Key, np.ndarray], header: Header
) -> None:
    part = write(tmp_path / "t.h5", finish=False)
    with open_trace(write(tmp_path / "whole.h5")) as whole:
        expected = {a.key: (a.digest, a.axes, a.source, a.class_name) for a in whole.activations}
        sketches = [a.digest.sketch for a in whole.activations if a.digest is not None]
        tables, inputs = whole.tables, whole.inputs
    path = recover(part)
    assert path == tmp_path / "t.h5"
    assert not part.exists()
    with open_trace(path) as trace:
        found = {a.key: (a.digest, a.axes, a.source, a.class_name) for a in trace.activations}
        assert found == expected
        assert list(found) == list(values)
        for activation, sketch in zip(trace.activations, sketches, strict=True):
            assert np.array_equal(trace.stored(activation), values[activation.key])
            assert activation.digest is not None
            assert np.array_equal(activation.digest.sketch, sketch)
        assert trace.tables == tables
        assert trace.inputs == inputs
        assert trace.header.notes == (
            "a note",
            "Recovered from t.h5.part, which holds 6 activations. Its capture did not finish: whatever came after "
            "layers.5.mlp output is missing.",
        )
        assert trace.header.modules == header.modules


def test_the_part_file_stays_beside_another_output(tmp_path: Path, write: Write) -> None:
    part = write(tmp_path / "t.h5", finish=False)
    before = part.read_bytes()
    assert recover(part, tmp_path / "u.h5") == tmp_path / "u.h5"
    assert part.read_bytes() == before


def test_digest_only(tmp_path: Path, write: Write) -> None:
    with open_trace(write(tmp_path / "whole.h5", digest_only=True)) as trace:
        expected = trace.activations
    with open_trace(recover(write(tmp_path / "t.h5", finish=False, digest_only=True))) as trace:
        assert trace.activations == expected
        for found, wanted in zip(trace.activations, expected, strict=True):
            assert found.digest is not None
            assert wanted.digest is not None
            assert np.array_equal(found.digest.sketch, wanted.digest.sketch)


def test_a_trace_without_digests(tmp_path: Path, write: Write) -> None:
    with open_trace(recover(write(tmp_path / "t.h5", finish=False, digest=False))) as trace:
        assert len(trace.activations) == 6
        assert trace.activations[0].digest is None


def test_shared_bytes_stay_shared(tmp_path: Path) -> None:
    big = np.arange(50_000, dtype=np.float32)
    with TraceWriter(tmp_path / "t.h5", Header("torch")) as writer:
        first = writer.write(Key("a", "output"), big, dtype="float32")
        writer.write(Key("b", "input"), big, dtype="float32", same_as=first.key)
    with open_trace(recover(writer.part)) as trace:
        one, two = trace.activations
        assert one.place == two.place
        assert np.array_equal(trace.stored(two), big)


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.7, 0.9, 0.99])
def test_a_cut_file_gives_what_is_in_it(
    tmp_path: Path, write: Write, values: dict[Key, np.ndarray], share: float
) -> None:
    path = write(tmp_path / "t.h5")
    os.truncate(path, int(path.stat().st_size * share))
    before = path.read_bytes()
    target = recover(path)
    assert target == tmp_path / "t.recovered.h5"
    assert path.read_bytes() == before
    with open_trace(target) as trace:
        for activation in trace.activations:
            assert np.array_equal(trace.stored(activation), values[activation.key])
        missing = len(values) - len(trace.activations)
        note = trace.header.notes[-1]
    if missing:
        assert (
            f"{missing} more arrays were committed, but the file was cut before their bytes."
            in note
        )
    else:
        assert note == "Recovered from t.h5, which holds 6 activations."


def test_damaged_bytes_are_left_out_and_named(
    tmp_path: Path, write: Write, values: dict[Key, np.ndarray]
) -> None:
    part = write(tmp_path / "t.h5", finish=False)
    data = bytearray(part.read_bytes())
    place = data.find(values[Key("layers.3.mlp", "output")].tobytes())
    data[place + 100] ^= 1
    part.write_bytes(data)
    with open_trace(recover(part)) as trace:
        assert len(trace.activations) == len(values) - 1
        assert (
            "1 were left out because their bytes are damaged: layers.3.mlp output."
            in (trace.header.notes[-1])
        )
    assert part.exists()


def test_a_file_that_hdf5_refuses(tmp_path: Path, write: Write) -> None:
    """All that HDF5 needs is gone, the superblock and the root group; the journal is enough."""
    part = write(tmp_path / "t.h5", finish=False)
    file = Mapping(part)
    start = find_journal(file.data)
    file.close()
    assert start is not None
    data = bytearray(part.read_bytes())
    data[8:start] = bytes(start - 8)
    part.write_bytes(data)
    with open_trace(recover(part)) as trace:
        assert len(trace.activations) == 6


def test_axes_and_long_names_survive(tmp_path: Path) -> None:
    key = Key("x" * 5000, "output", "y" * 5000)
    axes = tuple(Axis("scan", 1000, index) for index in range(200))
    with TraceWriter(tmp_path / "t.h5", Header("jax")) as writer:
        for step in range(50):
            one = Key(key.path, key.site, key.leaf, step=step)
            writer.write(one, np.zeros(3, np.float32), dtype="float32", axes=axes)
    with open_trace(recover(writer.part)) as trace:
        assert [a.key.step for a in trace.activations] == list(range(50))
        assert {(a.key.path, a.key.leaf, a.axes) for a in trace.activations} == {
            (key.path, key.leaf, axes)
        }


def test_what_cannot_be_rescued(tmp_path: Path, write: Write) -> None:
    assert refusal(tmp_path / "t.h5.part") == f"{tmp_path}/t.h5.part does not exist."
    part = write(tmp_path / "t.h5", finish=False)
    (tmp_path / "t.h5").write_text("something else")
    assert refusal(part) == (
        f"{tmp_path}/t.h5 exists; name another output: `firstdiff recover {part} -o OTHER.h5`."
    )
    assert (tmp_path / "t.h5").read_text() == "something else"
    text = tmp_path / "text.part"
    text.write_text("hello")
    assert refusal(text) == f"{text} is not a trace: it is not an HDF5 file."


def test_a_capture_that_still_runs_is_left_alone(tmp_path: Path) -> None:
    with TraceWriter(tmp_path / "t.h5", Header("torch")) as writer:
        writer.write(Key("a", "output"), np.ones(3, np.float32), dtype="float32")
        assert refusal(writer.part) == (
            f"{writer.part} is still being written by another process; let it finish, or stop it."
        )
        writer.finish()


def test_a_failing_rescue_destroys_nothing(
    tmp_path: Path, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = write(tmp_path / "t.h5", finish=False)
    before = part.read_bytes()

    def fail(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(TraceWriter, "finish", fail)
    with pytest.raises(KeyboardInterrupt):
        recover(part)
    assert part.read_bytes() == before
    assert list(tmp_path.iterdir()) == [part]
