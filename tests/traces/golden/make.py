"""Makes the golden trace of the current format version: `python tests/traces/golden/make.py FILE`.

The file beside this script is never made again: it is what this version wrote when it was released, and every
later version must read it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from firstdiff.traces import Axis, Header, Key, TraceWriter

HEADER = Header(
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
LARGE = (np.arange(8192, dtype=np.float64) / 3).reshape(64, 128)


def write(path: Path) -> None:
    """Write the golden trace to ``path``."""
    with TraceWriter(path, HEADER) as writer:
        writer.write_input("input_ids", np.arange(6).reshape(2, 3), dtype="int64")
        writer.write(
            Key("norm", "input", "x", "__call__", 1, 2),
            np.array([[1, -2, np.nan], [np.inf, 0.5, -0.0]], np.float32),
            dtype="float32",
            class_name="RMSNorm",
            axes=(Axis("scan", 4, 3), Axis("vmap", 2)),
            source="my_port.py:12",
        )
        for dtype in ("bfloat16", "float16"):
            bits = np.array([0x3F80, 0x4000, 0x7F81], np.uint16)
            value = bits if dtype == "bfloat16" else bits.view(np.float16)
            writer.write(Key("", "output", dtype, "__call__"), value, dtype=dtype)
        for dtype in ("float8_e4m3fn", "float8_e5m2", "int4"):
            codes = np.arange(0, 256, 15, dtype=np.uint8)
            writer.write(Key("codes", "output", dtype, "attend"), codes, dtype=dtype)
        large = writer.write(Key("large", "output", method="__call__"), LARGE, dtype="float64")
        writer.write(Key("next", "input", "x"), LARGE, dtype="float64", same_as=large.key)
        for dtype in ("bool", "complex64"):
            writer.write(Key("scalar", "output", dtype), np.array(1, dtype), dtype=dtype)
        writer.write(Key("empty", "output"), np.zeros((2, 0), np.int32), dtype="int32")
        rows = np.array(
            [(0, 1e-7, 2.0, 6)],
            [
                (n, "<f8" if n in "error scale" else "<i8")
                for n in ("order", "error", "scale", "count")
            ],
        )
        writer.write_table("floor/free/bfloat16", rows)
        writer.finish()


if __name__ == "__main__":
    write(Path(sys.argv[1]))
