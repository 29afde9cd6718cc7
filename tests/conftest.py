"""What several rooms' tests share: a tiny checkpoint, its reference, and the command line in process."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "jax")


@dataclass(frozen=True)
class Done:
    """A finished run of the command line."""

    code: int
    out: str
    err: str


@pytest.fixture
def firstdiff_cli(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Done]:
    """Runs `firstdiff ARGS` in this process and gives its exit code and what it printed."""
    from firstdiff.cli import main

    def run(*arguments: object) -> Done:
        monkeypatch.setattr("sys.argv", ["firstdiff", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "120")
        with pytest.raises(SystemExit) as stop:
            main()
        code = stop.value.code
        captured = capsys.readouterr()
        return Done(code if isinstance(code, int) else 0, captured.out, captured.err)

    return run


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny discriminating Qwen2 checkpoint."""
    from firstdiff.models.checkpoint import write_checkpoint

    return write_checkpoint(tmp_path_factory.mktemp("qwen2") / "checkpoint")


@pytest.fixture(scope="session")
def reference(checkpoint: Path) -> Path:
    """Its Hugging Face reference's trace, float32, with both noise floors."""
    from firstdiff.models.checkpoint import discriminating_inputs
    from firstdiff.recording import record

    path = checkpoint.parent / "ref.h5"
    record(f"hf:{checkpoint}", path, inputs=discriminating_inputs())
    return path


@pytest.fixture(scope="session")
def port_trace(checkpoint: Path, reference: Path) -> Path:
    """The right linen port's trace on the same inputs."""
    from firstdiff.models import qwen2
    from firstdiff.recording import record

    path = checkpoint.parent / "port.h5"
    record(qwen2.subject("linen", checkpoint), path, inputs=reference)
    return path
