"""Weights, inputs and the reference trace of a small gated model."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import firstdiff
from firstdiff.diff import Diff

sys.path.insert(0, str(Path(__file__).parent))

from gated_models import Model, State, torch_subject


@pytest.fixture(scope="session")
def weights() -> State:
    """Drawn weights that discriminate; tests copy before they change them."""
    random = torch.Generator().manual_seed(0)
    return {
        name: torch.randn(value.shape, generator=random) * 0.3 + (1.0 if value.ndim == 1 else 0.0)
        for name, value in Model().state_dict().items()
    }


@pytest.fixture(scope="session")
def ids() -> torch.Tensor:
    """int64[2, 7]: every token below 30, so that ten rows of the embedding are never looked up."""
    return torch.randint(0, 30, (2, 7), generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="session")
def reference(weights: State, ids: torch.Tensor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reference's trace, with floors."""
    path = tmp_path_factory.mktemp("reference") / "ref.h5"
    subject = torch_subject(weights)
    firstdiff.capture(subject, path, inputs={"ids": ids}, floor=["float32"])
    return path


@pytest.fixture(scope="session")
def checked(reference: Path) -> Callable[..., Diff]:
    """``checked(subject)``: the check without a replay."""

    def run(subject: firstdiff.Subject, **options: Any) -> Diff:
        return firstdiff.check(reference, subject, replay=False, verify=False, **options)

    return run
