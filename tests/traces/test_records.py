"""The header's JSON, the fields of tables, and the columns of the index, both ways and when they are damaged."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import h5py
import numpy as np
import pytest

from firstdiff.traces import Header, Key, TraceError, TraceWriter, open_trace
from firstdiff.traces.headers import decode_header, encode_header
from firstdiff.traces.tables import describe_table, parse_table

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def test_header_round_trip(header: Header) -> None:
    assert decode_header(encode_header(header)) == header
    assert decode_header(encode_header(Header("jax"))) == Header("jax")


def test_header_keeps_what_it_does_not_know(header: Header) -> None:
    fields = asdict(header) | {"later": {"x": 1}}
    found = decode_header(json.dumps(fields).encode())
    assert found.extra == {"later": {"x": 1}, **header.extra}


def test_header_takes_any_config_and_any_text() -> None:
    odd = Header("torch", subject="\udc80 é", model={"config": {"dtype": np.dtype("f4"), "x": {1}}})
    found = decode_header(encode_header(odd))
    assert found.subject == odd.subject
    assert found.model["config"] == {"dtype": "float32", "x": "{1}"}


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"{", "it is not JSON"),
        (b"\xff\xff", "it is not JSON"),
        (b"[" * 100_000, "it is not JSON"),
        (b"[]", "it is not a JSON object"),
        (b"{}", "framework"),
        (b'{"framework": 1}', "its field 'framework' is a int"),
        (b'{"framework": "torch", "notes": "x"}', "its field 'notes' is a str"),
        (b'{"framework": "torch", "modules": [1]}', "The header is damaged"),
        (b'{"framework": "torch", "modules": [["a"]]}', "The header is damaged"),
        (b'{"framework": "torch", "aliases": {"a": 3}}', "The header is damaged"),
    ],
)
def test_damaged_headers(data: bytes, problem: str) -> None:
    with pytest.raises(TraceError, match="The header is damaged") as caught:
        decode_header(data)
    assert problem in str(caught.value)


def test_table_fields_round_trip(floor_table: np.ndarray) -> None:
    assert parse_table(describe_table(floor_table.dtype)) == floor_table.dtype
    padded = np.dtype([("a", "i1"), ("b", "f8"), ("c", "S5"), ("d", "?"), ("e", "c8")], align=True)
    assert parse_table(describe_table(padded)) == padded


@pytest.mark.parametrize(
    "change", [{"formats": ["O"]}, {"formats": ["<i8", "<i8"]}, {"itemsize": 1}]
)
def test_damaged_table_fields(change: dict[str, object]) -> None:
    fields = {"names": ["a"], "formats": ["<i8"], "offsets": [0], "itemsize": 8}
    assert parse_table(json.dumps(fields)) == np.dtype([("a", "<i8")])
    with pytest.raises(TraceError, match="The fields of a table are damaged"):
        parse_table(json.dumps(fields | change))
    for text in ("", "3", "{}", "[" * 100_000):
        with pytest.raises(TraceError, match="The fields of a table are damaged"):
            parse_table(text)


def change_index(path: Path, column: str, value: object) -> None:
    with h5py.File(path, "r+") as file:
        rows = file["index"][()]
        rows[column][3] = value
        file["index"][...] = rows


@pytest.mark.parametrize(
    ("column", "value", "problem"),
    [
        ("site", b"inpot", "The index is damaged ('inpot' is not a site)."),
        ("shape", b"1,x", "The index is damaged (invalid literal"),
        ("shape", b"-1,3", "The index is damaged ('-1,3' is not a shape)."),
        ("path", b"\xff\xfe", "The index is damaged ('utf-8' codec"),
        ("axes", b"[3]", "The index is damaged ('[3]' does not list axes)."),
        ("axes", b"{", "The index is damaged"),
        ("order", -4, "The index is damaged (order -4"),
    ],
)
def test_damaged_rows(
    tmp_path: Path, write: Callable[..., Path], column: str, value: object, problem: str
) -> None:
    path = write(tmp_path / "t.h5")
    change_index(path, column, value)
    with open_trace(path) as trace, pytest.raises(TraceError) as caught:
        _ = trace.activations
    assert str(caught.value).startswith(problem)


@pytest.mark.parametrize(
    ("column", "value", "problem"),
    [
        (
            "shape",
            b"9,9",
            "layers.3.mlp has 81920 bytes, but float32[9, 9] takes 324: the trace is damaged.",
        ),
        (
            "nbytes",
            2**40,
            "lies at bytes 0 to 1099511627776 of /activations/layers.3.mlp/output, which has 81920",
        ),
        ("offset", -8, "lies at bytes -8 to 81912 of"),
        ("offset", 2**62, "the trace is damaged."),
        ("dataset", b"/activations", "A group stands where a dataset should."),
        ("dataset", b"/nothing", "is damaged"),
        ("dtype", b"float3", "dtype 'float3' is not one that this version of firstdiff knows"),
    ],
)
def test_damaged_places(
    tmp_path: Path, write: Callable[..., Path], column: str, value: object, problem: str
) -> None:
    path = write(tmp_path / "t.h5")
    change_index(path, column, value)
    with open_trace(path) as trace, pytest.raises(TraceError) as caught:
        trace.stored(trace.activations[3])
    assert problem in str(caught.value)


def test_missing_columns(tmp_path: Path, write: Callable[..., Path]) -> None:
    path = write(tmp_path / "t.h5")
    with h5py.File(path, "r+") as file:
        rows = file["index"][()]
        del file["index"]
        file["index"] = rows[[name for name in rows.dtype.names if name != "leaf"]]
    with open_trace(path) as trace, pytest.raises(TraceError) as caught:
        _ = trace.activations
    assert str(caught.value) == "The index is damaged: it has no right column 'leaf'."


def test_an_index_of_many_rows(tmp_path: Path) -> None:
    keys = [Key(f"é{number % 700}", "output", call=number) for number in range(5000)]
    value = np.zeros(1, np.float32)
    with TraceWriter(tmp_path / "t.h5", Header("torch"), digest=False) as writer:
        for key in keys:
            writer.write(key, value, dtype="float32")
        writer.finish()
    with open_trace(tmp_path / "t.h5") as trace:
        assert [activation.key for activation in trace.activations] == keys


def test_a_trace_of_nothing(tmp_path: Path) -> None:
    with TraceWriter(tmp_path / "t.h5", Header("torch")) as writer:
        writer.finish()
    with open_trace(tmp_path / "t.h5") as trace:
        assert trace.activations == ()
        assert trace.inputs == {}
        assert trace.tables == ()
