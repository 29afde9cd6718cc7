"""What the tests of the trace file share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from firstdiff.traces import Axis, Header, Key, TraceWriter

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def header() -> Header:
    """A header with something in most fields."""
    return Header(
        framework="torch",
        front_end="torch",
        subject="hf:./Qwen2.5-0.5B",
        model={"class": "Qwen2ForCausalLM", "config": {"hidden_size": 8, "rope": None}},
        versions={"torch": "2.13"},
        modules=(("", "Qwen2ForCausalLM"), ("model", "Qwen2Model")),
        aliases={"lm_head": ("model.embed_tokens",)},
        never_fired=("model.dropout",),
        notes=("a note",),
        extra={"floors": {"bfloat16": {"golden": "float64"}}},
    )


@pytest.fixture
def values() -> dict[Key, np.ndarray]:
    """Float32 arrays by key: small and large ones, an empty one, a scalar."""
    rng = np.random.default_rng(7)
    shapes = ((3, 4), (0, 5), (), (128, 160), (1, 48, 7), (70_000,))
    return {
        Key(f"layers.{number}.mlp", "output", leaf="" if number % 2 else "0"): rng.standard_normal(
            shape
        ).astype(np.float32)
        for number, shape in enumerate(shapes)
    }


@pytest.fixture
def write(
    header: Header, values: dict[Key, np.ndarray], floor_table: np.ndarray
) -> Callable[..., Path]:
    """``write(path)`` writes a trace of `values`, an input and a table; ``finish=False`` leaves it unfinished."""

    def write(path: Path, *, finish: bool = True, **options: bool) -> Path:
        with TraceWriter(path, header, **options) as writer:
            writer.write_input("input_ids", np.arange(48).reshape(1, 48), dtype="int64")
            for number, (key, value) in enumerate(values.items()):
                axes = (Axis("scan", len(values), number),)
                writer.write(
                    key, value, dtype="float32", class_name="MLP", axes=axes, source="a.py:3"
                )
            writer.write_table("floor/free/float32", floor_table)
            return writer.finish() if finish else writer.part

    return write


@pytest.fixture
def floor_table() -> np.ndarray:
    """Rows as the noise floors have them."""
    rows = np.zeros(3, [("order", "<i8"), ("error", "<f8"), ("scale", "<f8"), ("count", "<i8")])
    rows["order"], rows["error"] = [0, 1, 2], [1e-7, 2e-7, 3e-7]
    return rows
