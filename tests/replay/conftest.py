"""A port with one or more faults, run freely once and judged in both directions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from firstdiff.diff import Diff, diff
from firstdiff.diff.replayed import Replay
from firstdiff.models import qwen2
from firstdiff.models.faults import Fault
from firstdiff.models.subject import Subject
from firstdiff.port_replay import replay_port
from firstdiff.recording import as_subject, record
from firstdiff.reference_replay import replay_reference


@dataclass(frozen=True)
class Run:
    """One port, judged."""

    subject: Subject
    """The port."""
    trace: Path
    """Its free trace."""
    free: Diff
    """That trace against the reference's."""
    reference: Path
    """The reference's trace."""
    model: Subject
    """The reference."""

    def port(self, **options: Any) -> Replay:
        """The reference's values planted in the port."""
        return replay_port(self.reference, self.subject, free=(self.trace, self.free), **options)

    def backward(self, **options: Any) -> Replay:
        """The port's values forced into the reference."""
        return replay_reference(self.model, self.trace, **options)


@pytest.fixture(scope="session")
def torch_model(checkpoint: Path) -> Subject:
    """The Hugging Face reference, loaded once."""
    return as_subject(f"hf:{checkpoint}")


@pytest.fixture(scope="session")
def ported(
    checkpoint: Path,
    reference: Path,
    torch_model: Subject,
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[..., Run]:
    """``ported(fault, framework="linen", mode="eager", scan=..., remat=..., dtype=...)``, each made once.

    Eager by default: JAX then compiles each operation once for all tests.
    """
    made: dict[Any, Run] = {}
    folder = tmp_path_factory.mktemp("ports")

    def run(
        fault: str | Fault | None = None,
        framework: str = "linen",
        mode: str = "eager",
        **options: Any,
    ) -> Run:
        name = fault.name if isinstance(fault, Fault) else fault
        key = (name, framework, mode, *sorted(options.items()))
        if key not in made:
            subject = qwen2.subject(framework, checkpoint, fault=fault, **options)
            path = folder / f"{len(made)}.h5"
            record(subject, path, inputs=reference, floor=(), mode=mode, verify=False)
            made[key] = Run(subject, path, diff(reference, path), reference, torch_model)
        return made[key]

    return run
