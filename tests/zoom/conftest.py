"""References that look inside: the model itself, and a trace of its functions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from firstdiff.diff.inside.answer import Spot, Zoom
from firstdiff.models import qwen2
from firstdiff.models.checkpoint import discriminating_inputs
from firstdiff.models.subject import Subject
from firstdiff.recording import as_subject, record
from firstdiff.zooming import zoom


@pytest.fixture(scope="session")
def torch_model(checkpoint: Path) -> Subject:
    """The Hugging Face reference, loaded once."""
    return as_subject(f"hf:{checkpoint}")


@pytest.fixture(scope="session")
def function_trace(torch_model: Subject, checkpoint: Path) -> Path:
    """Its trace at function level."""
    path = checkpoint.parent / "functions.h5"
    record(torch_model, path, inputs=discriminating_inputs(), level="function", floor=())
    return path


@pytest.fixture(scope="session")
def zoomed(checkpoint: Path, torch_model: Subject, function_trace: Path) -> Callable[..., Zoom]:
    """``zoomed(fault, module, framework=..., trace=..., scan=...)``; eager, so that little is compiled."""

    def run(
        fault: str | None,
        module: str | None,
        framework: str = "linen",
        *,
        trace: bool = False,
        **options: Any,
    ) -> Zoom:
        port = qwen2.subject(framework, checkpoint, fault=fault, **options)
        if trace:
            return zoom(function_trace, port, module, mode="eager")
        return zoom(torch_model, port, module, inputs=discriminating_inputs(), mode="eager")

    return run


def functions(result: Zoom) -> tuple[str, str]:
    """(the reference's function, the port's) of a result that has both."""
    spots: dict[str, Spot] = {spot.side: spot for spot in result.spots}
    return spots["reference"].function, spots["port"].function
