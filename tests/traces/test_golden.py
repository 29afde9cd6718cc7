"""The golden trace of format version 1, read field by field, and what this version writes compared with it."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

import h5py
import numpy as np
import pytest

from firstdiff.traces import Axis, Header, Key, Trace, open_trace, recover

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

GOLDEN = Path(__file__).parent / "golden" / "v1.h5"


@pytest.fixture(scope="module")
def make() -> ModuleType:
    """The script that made it."""
    spec = importlib.util.spec_from_file_location("golden_make", GOLDEN.parent / "make.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def trace() -> Iterator[Trace]:
    with open_trace(GOLDEN) as trace:
        yield trace


def test_header(trace: Trace) -> None:
    assert trace.complete
    assert trace.header == Header(
        framework="jax",
        front_end="linen",
        subject="my_port.py:build",
        model={"class": "Qwen2", "type": "qwen2", "config": {"hidden_size": 8}, "parameters": 80},
        dtype="bfloat16",
        device="cpu",
        mode="jit",
        versions={"firstdiff": "0.1.0", "jax": "0.10.2"},
        precision={"default_matmul_precision": "highest"},
        selection={"globs": ["*"]},
        output_check={"checked": True, "bitwise": True, "max_abs": 0.0},
        modules=(("", "Qwen2"), ("norm", "RMSNorm")),
        aliases={"embed": ("head",)},
        never_fired=("dropout",),
        notes=("made for the tests", "é"),
        created="2026-01-01T00:00:00+00:00",
        extra={"floors": {"bfloat16": {"golden": "float64", "method": "free"}}},
    )


def test_inputs_and_tables(trace: Trace) -> None:
    assert trace.input("input_ids").tolist() == [[0, 1, 2], [3, 4, 5]]
    assert trace.inputs["input_ids"].dtype == "int64"
    assert trace.tables == ("floor/free/bfloat16",)
    rows = trace.table("floor/free/bfloat16")
    assert rows is not None
    assert rows.dtype.names == ("order", "error", "scale", "count")
    assert rows.tolist() == [(0, 1e-7, 2.0, 6)]


def test_first_activation_field_by_field(trace: Trace) -> None:
    first = trace.activations[0]
    assert first.order == 0
    assert first.key == Key("norm", "input", "x", "__call__", 1, 2)
    assert (first.dtype, first.shape) == ("float32", (2, 3))
    assert first.class_name == "RMSNorm"
    assert first.axes == (Axis("scan", 4, 3), Axis("vmap", 2, None))
    assert first.source == "my_port.py:12"
    digest = first.digest
    assert digest is not None
    assert (digest.count, digest.nan, digest.posinf, digest.neginf) == (6, 1, 1, 0)
    assert (digest.mean, digest.min, digest.max) == (-0.125, -2.0, 1.0)
    assert digest.rms == pytest.approx(np.sqrt(5.25 / 4))
    assert digest.checksum == 11876199828814945620
    assert digest.sketch is not None
    assert sorted(abs(digest.sketch[digest.sketch != 0]).tolist()) == [0.5, 1.0, 2.0]
    stored = trace.stored(first)
    assert stored[:, :2].tolist() == [[1.0, -2.0], [np.inf, 0.5]]
    assert np.isnan(stored[0, 2])
    assert np.signbit(stored[1, 2])


def test_every_dtype(trace: Trace) -> None:
    found = {a.key.leaf: a for a in trace.activations if a.key.path in ("", "codes", "scalar")}
    assert list(found) == [
        *("bfloat16", "float16", "float8_e4m3fn", "float8_e5m2", "int4", "bool", "complex64")
    ]
    assert all(a.dtype == leaf for leaf, a in found.items())
    assert trace.stored(found["bfloat16"]).tolist() == [0x3F80, 0x4000, 0x7F81]
    assert trace.values(found["bfloat16"])[:2].tolist() == [1.0, 2.0]
    assert trace.stored(found["float16"]).view(np.uint16).tolist() == [0x3F80, 0x4000, 0x7F81]
    for leaf in ("float8_e4m3fn", "float8_e5m2", "int4"):
        assert trace.stored(found[leaf]).tolist() == list(range(0, 256, 15))
        assert found[leaf].key.method == "attend"
    assert trace.stored(found["bool"]).tolist() is True
    assert trace.stored(found["complex64"]).tolist() == 1


def test_large_shared_and_empty(trace: Trace, make: ModuleType) -> None:
    by_path = {a.key.path: a for a in trace.activations}
    assert by_path["large"].place == by_path["next"].place
    assert by_path["large"].place is not None
    assert by_path["large"].place.dataset == "/activations/large/output"
    assert np.array_equal(trace.stored(by_path["next"]), make.LARGE)
    assert trace.stored(by_path["empty"]).shape == (2, 0)


def test_this_version_writes_the_same(tmp_path: Path, make: ModuleType) -> None:
    """Every dataset, value and type; addresses are HDF5's business, and differ between its versions."""
    make.write(tmp_path / "new.h5")
    with h5py.File(GOLDEN) as old, h5py.File(tmp_path / "new.h5") as new:
        names: list[str] = []
        old.visit(names.append)
        found: list[str] = []
        new.visit(found.append)
        assert found == names
        assert dict(old.attrs) == dict(new.attrs)
        for name in names:
            if isinstance(old[name], h5py.Dataset) and not name.startswith("journal"):
                assert old[name].dtype == new[name].dtype, name
                assert old[name].shape == new[name].shape, name
                assert same(old[name], new[name]), name


def test_journal_of_the_golden_file_is_read(tmp_path: Path, trace: Trace) -> None:
    part = tmp_path / "cut.h5"
    part.write_bytes(GOLDEN.read_bytes()[:-1])
    with open_trace(recover(part)) as found:
        assert [a.key for a in found.activations] == [a.key for a in trace.activations]
        assert [a.digest for a in found.activations] == [a.digest for a in trace.activations]


def test_it_is_small() -> None:
    assert GOLDEN.stat().st_size < 110_000


def same(old: h5py.Dataset, new: h5py.Dataset) -> bool:
    if old.dtype.names is None:
        return old[()].tobytes() == new[()].tobytes() if old.size else True
    if "offset" not in old.dtype.names:
        return bool((old[()] == new[()]).all())
    # Offsets in a slab follow from its address, which HDF5 chooses.
    kept = [name for name in old.dtype.names if name != "offset"]
    return bool((old[()][kept] == new[()][kept]).all())
