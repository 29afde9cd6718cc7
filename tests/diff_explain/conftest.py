"""Traces with known mistakes: one tiny reference a session, ports with faults of the catalogue, and hand-made pairs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from firstdiff.diff import Diff, diff
from firstdiff.models import qwen2
from firstdiff.models.checkpoint import discriminating_inputs, write_checkpoint
from firstdiff.recording import record
from firstdiff.traces import Header, Key, TraceWriter

Entry = tuple[str, str, str, np.ndarray]
"""Module path, site, leaf, values."""


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("explain") / "checkpoint")


@pytest.fixture(scope="session")
def reference(checkpoint: Path) -> Path:
    path = checkpoint.parent / "reference.h5"
    record(
        f"hf:{checkpoint}",
        path,
        inputs=discriminating_inputs(),
        dtype="float32",
        floor=("float32",),
        verify=False,
    )
    return path


@pytest.fixture(scope="session")
def compared(checkpoint: Path, reference: Path) -> Callable[..., Diff]:
    """The comparison with a port that carries a fault, made once."""
    made: dict[tuple[Any, ...], Diff] = {}

    def compare(fault: str | None, port: str = "linen", dtype: str = "float32") -> Diff:
        if (fault, port, dtype) not in made:
            path = reference.parent / "port.h5"
            subject = qwen2.subject(port, checkpoint, fault=fault, dtype=dtype)
            record(subject, path, inputs=discriminating_inputs(), verify=False, force=True)
            made[fault, port, dtype] = diff(reference, path)
        return made[fault, port, dtype]

    return compare


@pytest.fixture
def pair(tmp_path: Path) -> Callable[..., Diff]:
    """The comparison of two hand-made traces: a reference's entries, the port's, and the configuration."""

    def compare(ours: list[Entry], theirs: list[Entry], **config: Any) -> Diff:
        paths = []
        for name, entries in (("reference", ours), ("port", theirs)):
            header = Header("torch", model={"config": config}, dtype="float32")
            with TraceWriter(tmp_path / f"{name}.h5", header) as writer:
                writer.write_input("input_ids", np.arange(96).reshape(2, 48), dtype="int64")
                for path, site, leaf, value in entries:
                    stored = np.ascontiguousarray(value, dtype=np.float32)
                    writer.write(Key(path, site, leaf), stored, dtype="float32")
                paths.append(writer.finish())
        return diff(*paths)

    return compare
