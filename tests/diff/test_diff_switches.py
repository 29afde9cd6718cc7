"""What headers know about precision is told beside a divergence, and only there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from firstdiff.diff import Diff, diff
from firstdiff.traces import Header, Key, TraceWriter

U16 = 2.0**-8


def compared(folder: Path, ours: Header, theirs: Header, error: float) -> Diff:
    """Two traces of one activation each; ``error`` is relative, the floor 0.4 u of bfloat16."""
    rng, paths = np.random.default_rng(0), []
    value = rng.standard_normal((2, 48, 32), dtype=np.float32)
    moved = value + error * rng.standard_normal(value.shape, dtype=np.float32)
    rows = np.array(
        [(0, 0.0, 1.0, value.size)],
        [("order", "i8"), ("error", "f8"), ("scale", "f8"), ("count", "i8")],
    )
    for name, header, numbers in (("ours", ours, value), ("theirs", theirs, moved)):
        with TraceWriter(folder / f"{name}.h5", header) as writer:
            writer.write_input("input_ids", np.arange(96).reshape(2, 48), dtype="int64")
            bits = (numbers.view(np.uint32) + 0x8000 >> 16).astype(np.uint16)
            if header.dtype == "bfloat16":
                writer.write(Key("mlp", "output"), bits, dtype="bfloat16")
            else:
                writer.write(Key("mlp", "output"), numbers, dtype="float32")
            if name == "ours":
                writer.write_table(f"floor/free/{header.dtype}", rows)
            paths.append(writer.finish())
    return diff(*paths)


def notes(found: Diff, words: str) -> list[str]:
    return [note for note in found.notes if words in note]


def torch(dtype: str = "float32", device: str = "cpu", **precision: object) -> Header:
    return Header("torch", dtype=dtype, device=device, precision=precision)


def jax(dtype: str = "float32", device: str = "cpu:0", **precision: object) -> Header:
    return Header("jax", dtype=dtype, device=device, precision=precision)


@pytest.mark.parametrize(
    ("device", "level", "rounded"),
    [
        ("tpu:0", None, "bfloat16"),
        ("cuda:0", None, "TF32"),
        ("cuda:0", "bfloat16_3x", "bfloat16"),
        ("cuda:0", "highest", ""),
        ("cpu:0", None, ""),
    ],
)
def test_products_of_a_port_on_an_accelerator(
    device: str, level: str | None, rounded: str, tmp_path: Path
) -> None:
    found = compared(tmp_path, torch(), jax(device=device, matmul_precision=level), 1e-3)
    told = notes(found, "matrix products")
    expected = (
        f"port: matrix products on {device} may round float32 operands to {rounded}: set "
        f'jax_default_matmul_precision="highest".'
    )
    assert told == ([expected] if rounded else [])


def test_tf32_of_the_reference(tmp_path: Path) -> None:
    found = compared(tmp_path, torch(device="cuda:0", cuda_matmul_tf32=True), jax(), 1e-3)
    assert notes(found, "reference: matrix products on cuda:0 may round float32 operands to TF32")


def test_nothing_is_told_where_nothing_differs(tmp_path: Path) -> None:
    found = compared(tmp_path, torch(), jax(device="tpu:0", matmul_precision=None), 0.0)
    assert found.exit_code == 0
    assert not notes(found, "matrix products")


def test_a_reference_whose_weights_were_rounded(tmp_path: Path) -> None:
    header = replace(torch("bfloat16"), model={"config": {"checkpoint_dtype": "float32"}})
    told = notes(compared(tmp_path, header, jax("bfloat16"), 0.0), "loaded in")
    assert told[0].startswith("reference: loaded in bfloat16, its checkpoint holds float32")
    assert told[0].endswith("--dtype float32.")
    upcast = replace(torch("float32"), model={"config": {"checkpoint_dtype": "bfloat16"}})
    (tmp_path / "more").mkdir()
    assert not notes(compared(tmp_path / "more", upcast, jax(), 0.0), "loaded in")


@pytest.mark.parametrize(
    ("excess", "multiple", "told"), [(True, 5, 1), (False, 5, 1), (True, 20, 0)]
)
def test_legal_ways_are_named_between_three_and_eight(
    excess: bool, multiple: float, told: int, tmp_path: Path
) -> None:
    port = jax("bfloat16", excess_precision=excess)
    found = compared(tmp_path, torch("bfloat16"), port, multiple * 0.4 * U16)
    assert found.exit_code == 1
    sentences = notes(found, "partial sums")
    assert len(sentences) == told
    assert all(("excess precision" in sentence) == excess for sentence in sentences)
