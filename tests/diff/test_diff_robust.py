"""The verdict outlives whatever follows it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from firstdiff.diff import run
from firstdiff.diff.run import diff
from firstdiff.traces import Header, Key, TraceWriter


def trace(path: Path, scale: float) -> Path:
    values = np.random.default_rng(0).normal(size=(2, 8, 16)).astype("f4")
    with TraceWriter(path, Header(framework="torch")) as writer:
        writer.write(Key("layers.0.norm", "input", "x"), values, dtype="float32")
        writer.write(Key("layers.0.norm", "output"), values * np.float32(scale), dtype="float32")
        return writer.finish()


def test_an_explanation_that_fails_does_not_cost_the_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ValueError("cannot reshape")

    monkeypatch.setattr(run, "explain", fail)
    result = diff(trace(tmp_path / "a.h5", 1), trace(tmp_path / "b.h5", 2))
    assert result.exit_code == 1
    assert "layers.0.norm" in result.summary
    assert result.notes[-1] == "no explanation: looking for one failed (ValueError: cannot reshape)"


def test_agreement_of_a_few_activations_is_not_said_of_the_port(tmp_path: Path) -> None:
    values = np.ones(8, "f4")
    for name, paths in (("a", "wxyz"), ("b", "w")):
        with TraceWriter(tmp_path / f"{name}.h5", Header(framework="torch")) as writer:
            for path in paths:
                writer.write(Key(path, "output"), values, dtype="float32")
            writer.finish()
    result = diff(tmp_path / "a.h5", tmp_path / "b.h5")
    assert result.summary.startswith(
        "What could be compared agrees, but that is only 1 of the reference's 4 activations"
    )
