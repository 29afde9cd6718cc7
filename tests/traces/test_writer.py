"""What a writer refuses, shares, and leaves behind."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import h5py
import numpy as np
import pytest

from firstdiff.traces import CaptureError, Header, Key, TraceError, TraceWriter, open_trace

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

KEY = Key("a", "output")
ONES = np.ones(3, np.float32)


def refusal(act: Callable[[], object]) -> str:
    with pytest.raises(CaptureError) as caught:
        act()
    return str(caught.value)


def test_existing_files_are_kept_unless_told(tmp_path: Path, write: Callable[..., Path]) -> None:
    path = write(tmp_path / "t.h5")
    before = path.read_bytes()
    assert refusal(lambda: TraceWriter(path, Header("torch"))) == (
        f"{path} exists; name another file, or overwrite it (--overwrite)."
    )
    assert path.read_bytes() == before
    with TraceWriter(path, Header("jax"), overwrite=True) as writer:
        assert path.read_bytes() == before
        writer.finish()
    with open_trace(path) as trace:
        assert trace.header.framework == "jax"


def test_part_files_are_kept_unless_told(tmp_path: Path, write: Callable[..., Path]) -> None:
    part = write(tmp_path / "t.h5", finish=False)
    assert refusal(lambda: TraceWriter(tmp_path / "t.h5", Header("torch"))) == (
        f"{part} is left from a capture that did not finish, or is still being written; "
        f"rescue it with `firstdiff recover {part}`, or overwrite it (--overwrite)."
    )
    with TraceWriter(tmp_path / "t.h5", Header("torch"), overwrite=True) as writer:
        assert writer.finish().exists()
    assert not part.exists()


def test_places_where_no_file_can_be(tmp_path: Path) -> None:
    assert refusal(lambda: TraceWriter(tmp_path, Header("torch"))) == (
        f"{tmp_path} is a directory; name a file for the trace."
    )
    assert refusal(lambda: TraceWriter(tmp_path / "no" / "t.h5", Header("torch"))) == (
        f"{tmp_path}/no is not a directory; create it first."
    )


def test_keys_inputs_and_tables_are_unique(tmp_path: Path, floor_table: np.ndarray) -> None:
    with TraceWriter(tmp_path / "t.h5", Header("torch")) as writer:
        key = Key("a", "output", "logits", "attend", 1, 2)
        writer.write(key, ONES, dtype="float32")
        assert refusal(lambda: writer.write(key, ONES, dtype="float32")) == (
            f"a output logits (method attend, call 1, step 2) was already written to {writer.part}; "
            "the keys of a trace are unique: count calls and steps."
        )
        writer.write_input("x", ONES, dtype="float32")
        assert "x input was already" in refusal(
            lambda: writer.write_input("x", ONES, dtype="float32")
        )
        writer.write_table("t/u", floor_table)
        assert "t/u output was already" in refusal(lambda: writer.write_table("t/u", floor_table))
        writer.write(Key("b", "output"), ONES, dtype="float32")
        writer.finish()
    with open_trace(tmp_path / "t.h5") as trace:
        assert len(trace.activations) == 2


def test_a_closed_writer_says_so(tmp_path: Path) -> None:
    with TraceWriter(tmp_path / "t.h5", Header("torch")) as writer:
        writer.finish()
    expected = f"{tmp_path}/t.h5.part is closed; nothing more can be written to it."
    assert refusal(lambda: writer.write(KEY, ONES, dtype="float32")) == expected
    assert refusal(writer.finish) == expected
    writer.close()


def test_arrays_of_another_dtype_are_refused(tmp_path: Path) -> None:
    with TraceWriter(tmp_path / "t.h5", Header("torch")) as writer:
        assert refusal(lambda: writer.write(KEY, ONES, dtype="bfloat16")) == (
            "a output: an array of float32 is no storage of bfloat16, which is uint16."
        )
        with pytest.raises(TraceError, match="dtype 'float3' is not one"):
            writer.write(KEY, ONES, dtype="float3")
        writer.write(KEY, ONES, dtype="float32")


def test_names_that_cannot_be_stored_are_refused_and_the_rest_kept(tmp_path: Path) -> None:
    with TraceWriter(tmp_path / "t.h5", Header("torch")) as writer:
        writer.write(KEY, ONES, dtype="float32")
        nul, surrogate = Key("a\0b", "output"), Key("a\udc80", "output")
        assert refusal(lambda: writer.write(nul, ONES, dtype="float32")) == (
            "'a\\x00b': a name holds a NUL, which a trace cannot store."
        )
        assert "'a\\udc80': a name is not Unicode text" in refusal(
            lambda: writer.write(surrogate, ONES, dtype="float32")
        )
        writer.finish()
    with open_trace(tmp_path / "t.h5") as trace:
        assert [a.key for a in trace.activations] == [KEY]


def test_tables_take_plain_rows_only(tmp_path: Path) -> None:
    with TraceWriter(tmp_path / "t.h5", Header("torch")) as writer:
        assert refusal(lambda: writer.write_table("t", np.zeros(3))) == (
            "Table 't': an array of shape (3,) and dtype float64 is no table; "
            "it takes one axis of rows with named fields of plain numbers or fixed-length bytes."
        )
        objects = np.zeros(1, [("x", object)])
        assert "is no table" in refusal(lambda: writer.write_table("t", objects))


def test_same_values_share_their_bytes(tmp_path: Path) -> None:
    big = np.arange(50_000, dtype=np.float32)
    with TraceWriter(tmp_path / "t.h5", Header("torch")) as writer:
        first = writer.write(Key("a", "output"), big, dtype="float32")
        second = writer.write(Key("b", "input", "x"), big, dtype="float32", same_as=first.key)
        flat = writer.write(
            Key("c", "input"), big.reshape(2, -1), dtype="float32", same_as=first.key
        )
        unknown = writer.write(Key("d", "input"), big, dtype="float32", same_as=Key("z", "output"))
        writer.finish()
    assert second.place == first.place
    assert second.digest == first.digest
    assert second.digest is not None
    assert second.digest.sketch is first.digest.sketch
    assert flat.place != first.place
    assert unknown.place != first.place
    assert (tmp_path / "t.h5").stat().st_size < 3.2 * big.nbytes
    with open_trace(tmp_path / "t.h5") as trace:
        found = [trace.stored(activation).reshape(-1) for activation in trace.activations]
    assert all(np.array_equal(array, big) for array in found)


def test_a_small_trace_is_a_small_file(tmp_path: Path) -> None:
    with TraceWriter(tmp_path / "t.h5", Header("torch")) as writer:
        writer.write(KEY, ONES, dtype="float32")
        path = writer.finish()
    assert path.stat().st_size < 40_000


def test_slabs_waste_little(tmp_path: Path) -> None:
    value = np.zeros(1000, np.float32)
    with TraceWriter(tmp_path / "t.h5", Header("torch"), digest=False) as writer:
        for number in range(2000):
            writer.write(Key("a", "output", call=number), value, dtype="float32")
        path = writer.finish()
    assert path.stat().st_size < 1.45 * 2000 * value.nbytes


def test_the_header_can_be_replaced_at_the_end(tmp_path: Path, header: Header) -> None:
    with TraceWriter(tmp_path / "t.h5", Header("torch")) as writer:
        writer.write(KEY, ONES, dtype="float32")
        with open_trace(writer.part, partial=True) as trace:
            assert trace.header == Header("torch")
        writer.finish(header)
    with open_trace(tmp_path / "t.h5") as trace:
        assert trace.header == header


def test_an_exception_keeps_the_part_file(tmp_path: Path) -> None:
    def fail() -> None:
        with TraceWriter(tmp_path / "t.h5", Header("torch")) as writer:
            writer.write(KEY, ONES, dtype="float32")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert not (tmp_path / "t.h5").exists()
    with open_trace(tmp_path / "t.h5.part", partial=True) as trace:
        assert trace.stored(trace.activations[0]).tolist() == [1, 1, 1]


def test_a_part_file_that_was_replaced_is_not_renamed(tmp_path: Path) -> None:
    with TraceWriter(tmp_path / "t.h5", Header("torch")) as writer:
        writer.part.unlink()
        writer.part.write_text("another's")
        assert "another process removed or replaced it" in refusal(writer.finish)
    assert writer.part.read_text() == "another's"
    assert not writer.path.exists()


def test_digests_can_be_left_out(tmp_path: Path) -> None:
    with TraceWriter(tmp_path / "t.h5", Header("torch"), digest=False) as writer:
        assert writer.write(KEY, ONES, dtype="float32").digest is None
        writer.finish()
    with open_trace(tmp_path / "t.h5") as trace:
        assert trace.activations[0].digest is None
    assert "would hold nothing" in refusal(
        lambda: TraceWriter(tmp_path / "u.h5", Header("torch"), digest_only=True, digest=False)
    )


def test_large_activations_are_found_by_name(tmp_path: Path) -> None:
    big = np.zeros((300, 100), np.float32)
    keys = {
        Key("", "output"): "/activations/(root)/output",
        Key("(root)", "output"): "/activations/%28root)/output",
        Key(".", "output"): "/activations/%2E/output",
        Key("a/b", "input", "x/y"): "/activations/a%2Fb/input.x%2Fy",
        Key("a", "output", "logits"): "/activations/a/output.logits",
        Key("a", "output", method="attend", call=1, step=2): (
            "/activations/a/output;method=attend;call=1;step=2"
        ),
        Key("a", "output", "x;call=1"): "/activations/a/output.x%3Bcall=1",
        Key("a", "output", "x", call=1): "/activations/a/output.x;call=1",
        Key("é%", "output"): "/activations/é%25/output",
    }
    with TraceWriter(tmp_path / "t.h5", Header("torch"), digest=False) as writer:
        for number, key in enumerate(keys):
            writer.write(key, big + np.float32(number), dtype="float32")
        writer.finish()
    with h5py.File(tmp_path / "t.h5") as file:
        for number, name in enumerate(keys.values()):
            assert file[name].shape == big.shape
            assert file[name][0, 0] == number


def test_digests_of_another_trace_can_be_taken_over(tmp_path: Path) -> None:
    with TraceWriter(tmp_path / "t.h5", Header("torch")) as writer:
        first = writer.write(KEY, ONES, dtype="float32")
        taken = writer.write_digest(replace(first, key=Key("b", "output")))
        assert "already" in refusal(lambda: writer.write_digest(first))
        writer.finish()
    assert (taken.order, taken.place) == (1, None)
    with open_trace(tmp_path / "t.h5") as trace:
        assert trace.activations[1].digest == first.digest
