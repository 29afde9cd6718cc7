"""What is written is read, bit by bit: every dtype, every shape."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from firstdiff.traces import Axis, Header, Key, TraceWriter, open_trace, widen
from firstdiff.traces.dtypes import BITS, NATIVE, stored_dtype

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SHAPES = st.lists(st.integers(0, 5), max_size=5).map(tuple)


def random_bits(shape: tuple[int, ...], dtype: str, seed: int) -> np.ndarray:
    """Any bit pattern of ``dtype``: NaN of every kind, infinities, subnormal numbers."""
    stored = stored_dtype(dtype)
    rng = np.random.default_rng(seed)
    if dtype == "bool":
        return rng.integers(0, 2, shape).astype(bool)
    data = rng.integers(0, 256, prod(shape) * stored.itemsize, dtype=np.uint8)
    return data.view(stored).reshape(shape)


def same_bits(found: np.ndarray, expected: np.ndarray) -> bool:
    return (
        found.dtype == expected.dtype
        and found.shape == expected.shape
        and found.tobytes() == expected.tobytes()
    )


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    arrays=st.lists(
        st.tuples(SHAPES, st.sampled_from(sorted(NATIVE | BITS)), st.integers(0, 2**32 - 1)),
        max_size=12,
    )
)
def test_any_arrays(tmp_path: Path, arrays: list[tuple[tuple[int, ...], str, int]]) -> None:
    path = tmp_path / "any.h5"
    written = [(random_bits(*array), array[1]) for array in arrays]
    with TraceWriter(path, Header("jax"), overwrite=True) as writer:
        for number, (value, dtype) in enumerate(written):
            writer.write(Key("m", "output", str(number)), value, dtype=dtype)
        writer.finish()
    with open_trace(path) as trace:
        assert len(trace.activations) == len(written)
        for activation, (value, dtype) in zip(trace.activations, written, strict=True):
            assert (activation.dtype, activation.shape) == (dtype, value.shape)
            assert same_bits(trace.stored(activation), value)
            assert trace.values(activation).tobytes() == widen(value, dtype).tobytes()


@pytest.mark.parametrize("dtype", sorted(NATIVE | BITS))
def test_large_arrays_of_every_dtype(tmp_path: Path, dtype: str) -> None:
    value = random_bits((3, 70_001), dtype, 1)
    with TraceWriter(tmp_path / "t.h5", Header("torch")) as writer:
        written = writer.write(Key("a", "output"), value, dtype=dtype)
        writer.finish()
    assert written.place is not None
    assert written.place.dataset == "/activations/a/output"
    with open_trace(tmp_path / "t.h5") as trace:
        assert same_bits(trace.stored(trace.activations[0]), value)


def test_everything_about_an_activation_comes_back(
    tmp_path: Path,
    write: Callable[..., Path],
    header: Header,
    values: dict[Key, np.ndarray],
    floor_table: np.ndarray,
) -> None:
    with open_trace(write(tmp_path / "t.h5")) as trace:
        assert trace.header == header
        assert trace.complete
        assert [a.key for a in trace.activations] == list(values)
        assert [a.order for a in trace.activations] == list(range(len(values)))
        for number, activation in enumerate(trace.activations):
            assert activation.class_name == "MLP"
            assert activation.source == "a.py:3"
            assert activation.axes == (Axis("scan", len(values), number),)
            assert activation.digest is not None
            assert activation.digest.count == values[activation.key].size
        assert trace.tables == ("floor/free/float32",)
        found = trace.table("floor/free/float32")
        assert found is not None
        assert np.array_equal(found, floor_table)
        assert trace.table("floor/free/float16") is None
        assert trace.input("input_ids").tolist() == np.arange(48).reshape(1, 48).tolist()
        given = trace.inputs["input_ids"]
        assert (given.name, given.dtype, given.shape) == ("input_ids", "int64", (1, 48))
        assert given.digest is not None
        assert given.digest.max == 47.0


def test_what_write_returns_is_what_is_read(tmp_path: Path) -> None:
    axes = (Axis("scan", 4, 2), Axis("vmap", 3), Axis("cond", 2, 1))
    key = Key("é.层", "input", "position_embeddings.0/x;%", "attend", 3, 2)
    with TraceWriter(tmp_path / "t.h5", Header("jax")) as writer:
        written = writer.write(
            key,
            np.ones(5, np.float16),
            dtype="float16",
            class_name="Norm",
            axes=axes,
            source="ü.py:1",
        )
        writer.finish()
    with open_trace(tmp_path / "t.h5") as trace:
        assert trace.activations == (written,)


def test_arrays_outlive_the_trace_and_cannot_be_changed(
    tmp_path: Path, write: Callable[..., Path], values: dict[Key, np.ndarray]
) -> None:
    with open_trace(write(tmp_path / "t.h5")) as trace:
        found = [(trace.stored(a), values[a.key]) for a in trace.activations]
    for array, value in found:
        assert np.array_equal(array, value)
        assert array.flags.aligned
        assert not array.flags.writeable


def test_blocks_give_all_numbers_in_bounded_pieces(tmp_path: Path) -> None:
    bits = random_bits((7, 100), "bfloat16", 3)
    with TraceWriter(tmp_path / "t.h5", Header("torch")) as writer:
        writer.write(Key("a", "output"), bits, dtype="bfloat16")
        writer.finish()
    with open_trace(tmp_path / "t.h5") as trace:
        blocks = list(trace.blocks(trace.activations[0], 64))
        assert max(map(len, blocks)) == 64
        assert np.concatenate(blocks).tobytes() == trace.values(trace.activations[0]).tobytes()


def test_inputs_of_numpy_lacking_dtypes_are_widened(tmp_path: Path) -> None:
    bits = np.array([0x3F80, 0x4000], np.uint16)
    with TraceWriter(tmp_path / "t.h5", Header("jax")) as writer:
        writer.write_input("x", bits, dtype="bfloat16")
        writer.write_input("empty", np.zeros((0, 2), np.float32), dtype="float32")
        writer.finish()
    with open_trace(tmp_path / "t.h5") as trace:
        assert trace.input("x").tolist() == bits.tolist()
        assert trace.input_values("x").tolist() == [1.0, 2.0]
        assert trace.input("empty").shape == (0, 2)


def test_find_takes_globs_of_paths(tmp_path: Path, write: Callable[..., Path]) -> None:
    with open_trace(write(tmp_path / "t.h5")) as trace:
        assert [a.key.path for a in trace.find("layers.[13].*")] == ["layers.1.mlp", "layers.3.mlp"]
        assert trace.find("nothing") == ()


def test_non_contiguous_and_big_endian_values_are_stored_right(tmp_path: Path) -> None:
    value = np.arange(12, dtype=">f4").reshape(3, 4).T
    with TraceWriter(tmp_path / "t.h5", Header("torch")) as writer:
        writer.write(Key("a", "output"), value, dtype="float32")
        writer.finish()
    with open_trace(tmp_path / "t.h5") as trace:
        assert np.array_equal(trace.stored(trace.activations[0]), value)
