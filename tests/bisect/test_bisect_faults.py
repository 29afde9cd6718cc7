"""Seeded faults of every place and kind, put where they belong by bisecting the JAX port; the right ports pass."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import firstdiff
from firstdiff import bisection_local
from firstdiff.models import qwen2
from firstdiff.models.checkpoint import discriminating_inputs
from firstdiff.models.faults import FAULTS
from firstdiff.traces.errors import OptionError

PLACES = (
    "rotary_interleaved",  # between modules, in every layer
    "causality_missing",  # in what every layer receives alike
    "rope_theta",  # in a module beside the line of layers
    "residual_missing",  # in a layer's own code
    "norm_eps",  # inside a module, three decades above rounding
    "gate_up_swapped",  # in the weights
    "head_untied",  # behind the layers
)
"""One of each kind of place. All of the catalogue takes ten minutes: benchmarks, not tests."""


def is_at(found: object, name: str) -> bool:
    row = getattr(found, "first", None)
    fault = FAULTS[name]
    return row is not None and (row.name, row.key.site) == (fault.activation, fault.site)


@pytest.mark.parametrize("name", PLACES)
def test_a_seeded_fault_is_placed(name: str, checkpoint: Path, reference: Path) -> None:
    port = qwen2.subject("linen", checkpoint, fault=name)
    found = firstdiff.bisect(reference, port, mode="eager")
    assert is_at(found, name), found.summary
    assert found.exit_code == 1
    assert found.runs <= 10  # the last of them inside the module
    assert found.last_block is not None


def test_a_mask_fault_lies_before_the_layers(checkpoint: Path, reference: Path) -> None:
    port = qwen2.subject("linen", checkpoint, fault="padding_ignored")
    found = firstdiff.bisect(reference, port, mode="eager")
    assert found.beyond == "none"
    assert "before layers.0 (its input attention_mask differs" in found.summary


@pytest.mark.parametrize("port", ["linen", "nnx"])
def test_the_right_port_passes_in_one_run(port: str, checkpoint: Path, reference: Path) -> None:
    found = firstdiff.bisect(reference, qwen2.subject(port, checkpoint), mode="eager")
    assert (found.exit_code, found.runs, found.finding) == (0, 1, None)


def test_a_harmless_fault_is_no_fault(checkpoint: Path, reference: Path) -> None:
    port = qwen2.subject("linen", checkpoint, fault="positions_plus_one")
    assert firstdiff.bisect(reference, port, mode="eager").exit_code == 0


def test_under_jit_and_through_a_scan(checkpoint: Path, reference: Path) -> None:
    port = qwen2.subject("linen", checkpoint, fault="norm_eps", scan=True)
    found = firstdiff.bisect(reference, port)
    assert is_at(found, "norm_eps"), found.summary
    assert found.last_block is not None


def test_a_torch_port_of_a_checkpoint_passes(checkpoint: Path, reference: Path) -> None:
    assert firstdiff.bisect(reference, f"hf:{checkpoint}").exit_code == 0


@pytest.fixture(scope="module")
def narrow(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reference in bfloat16."""
    path = tmp_path_factory.mktemp("narrow") / "ref.h5"
    options = {"dtype": "bfloat16", "floor": ("bfloat16",)}
    firstdiff.capture(f"hf:{checkpoint}", path, inputs=discriminating_inputs(), **options)
    return path


def test_what_a_block_is_given_is_not_judged_by_the_floor_inside_it(
    checkpoint: Path, narrow: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What ran freely before the block has rounded more than one module does."""
    monkeypatch.setattr(bisection_local, "_BARELY", np.inf)
    port = qwen2.subject("linen", checkpoint, fault="last_scale_not_loaded", dtype="bfloat16")
    found = firstdiff.bisect(narrow, port, mode="eager")
    assert is_at(found, "last_scale_not_loaded"), found.summary


def test_what_is_within_the_floor_of_a_cut_is_found_before_it(
    checkpoint: Path, narrow: Path
) -> None:
    """In bfloat16 the fault is told from rounding by what comes of it, one layer further on."""
    port = qwen2.subject("linen", checkpoint, fault="cache_slot_empty", dtype="bfloat16")
    found = firstdiff.bisect(narrow, port, mode="eager")
    assert is_at(found, "cache_slot_empty"), found.summary
    assert (found.block, found.beyond) == ("layers.0", "none")
    assert "What layers.1 receives differs by less than its floor" in found.notes[0]
    questions = [step.question for step in found.steps]
    assert "each module of layers.0 on the reference's values" in questions
    assert "attention_last_slot_empty (linen.py:" in found.called  # bfloat16 hides it from a zoom


def test_two_traces_of_a_seeded_fault(checkpoint: Path, reference: Path, tmp_path: Path) -> None:
    port = qwen2.subject("linen", checkpoint, fault="gqa_tiled")
    trace = tmp_path / "port.h5"
    firstdiff.capture(port, trace, inputs=reference, mode="eager", verify=False)
    found = firstdiff.bisect(reference, trace)
    assert is_at(found, "gqa_tiled")
    assert found.runs == 0


def test_a_port_of_plain_functions_is_told_what_to_do(checkpoint: Path, reference: Path) -> None:
    with pytest.raises(OptionError, match=r"no line of blocks to search.*firstdiff check"):
        firstdiff.bisect(reference, qwen2.subject("function", checkpoint), mode="eager")
