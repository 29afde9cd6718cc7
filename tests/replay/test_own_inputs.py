"""Linear layers behind a norm whose scale lies in their weights: a replay leaves their inputs as the port has them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from firstdiff.models import qwen2, write_checkpoint
from firstdiff.models.checkpoint import discriminating_inputs
from firstdiff.models.variants import VARIANTS, Variant
from firstdiff.port_replay import replay_port
from firstdiff.recording import as_subject, record

if TYPE_CHECKING:
    from firstdiff.diff.replayed import Replay

FOLDED = VARIANTS["norms_folded"]
SEED = 105
"""Where three results of bfloat16 were above the floors of given inputs."""


@pytest.fixture(scope="module")
def replayed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Variant], Replay]:
    folder = tmp_path_factory.mktemp("folded")
    checkpoint: Path = write_checkpoint(folder / "checkpoint", seed=SEED)
    reference = folder / "reference.h5"
    inputs = discriminating_inputs(seed=SEED)
    model = as_subject(f"hf:{checkpoint}", "bfloat16")
    record(model, reference, inputs=inputs, floor=("bfloat16",), verify=False)

    def run(variant: Variant) -> Replay:
        port = qwen2.subject("linen", checkpoint, variant=variant, dtype="bfloat16")
        return replay_port(reference, port)

    return run


def test_what_the_weights_and_the_other_convention_round_is_no_fault(
    replayed: Callable[[Variant], Replay],
) -> None:
    result = replayed(FOLDED)
    assert (result.faults, result.suspects) == ((), ())
    behind = [r for r in result.rows if r.row.name.endswith("mlp.gate_proj")]
    inputs, outputs = (
        [r for r in behind if r.row.key.site == site] for site in ("input", "output")
    )
    assert all(r.left == "it differs without effect" for r in inputs)
    assert len(outputs) == 2
    assert all((r.row.verdict.score or 0.0) < 2 for r in outputs)


def test_a_fault_there_is_found_all_the_same(replayed: Callable[[Variant], Replay]) -> None:
    def weights(name: str, read: Callable[[str], np.ndarray]) -> np.ndarray:
        assert FOLDED.weights is not None
        found = FOLDED.weights(name, read)
        return 1.05 * found if name.endswith("layers.1.mlp.up_proj.weight") else found

    result = replayed(replace(FOLDED, name="folded, up_proj wrong", weights=weights))
    assert [fault.title for fault in result.faults] == ["layers.1.mlp.up_proj"]
