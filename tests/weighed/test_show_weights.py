"""`firstdiff show` tells what a trace keeps of the weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import firstdiff
from firstdiff.cli.program import app


@pytest.fixture(scope="module")
def model() -> nn.Linear:
    """One matrix too large to be kept unasked, one vector."""
    return nn.Linear(256, 256).eval()


@pytest.mark.parametrize(
    ("weights", "line", "counts"),
    [
        (None, "weights   digests of 2 parameters, 1 of them in full", (2, 1)),
        (True, "weights   2 parameters in full", (2, 2)),
        (False, "weights   nothing kept", (0, 0)),
    ],
)
def test_the_header_tells_what_was_kept(
    model: nn.Linear, tmp_path: Path, weights: bool | None, line: str, counts: tuple[int, int]
) -> None:
    path = tmp_path / "trace.h5"
    subject = firstdiff.Subject(model=model, call=lambda m, x: m(x), name="linear")
    inputs = {"x": torch.ones(2, 256)}
    firstdiff.capture(subject, path, inputs=inputs, floor=(), verify=False, weights=weights)
    shown = CliRunner().invoke(app, ["show", str(path), "--header"])
    assert shown.exit_code == 0
    assert line in shown.stdout.splitlines()
    listing = firstdiff.show(path)
    assert (listing.digests, listing.weights) == counts
    assert listing.as_dict()["weights"] == {"digests": counts[0], "in_full": counts[1]}
