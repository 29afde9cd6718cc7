"""Bisecting goes on inside the module that it found: wrong weights, or the function and the line, on both sides."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

import firstdiff
from firstdiff.bisection_inside import Spotted, called
from firstdiff.diff.bisection import Bisection
from firstdiff.diff.report.bisection import closing_lines
from firstdiff.models import qwen2
from firstdiff.models.checkpoint import discriminating_inputs, write_checkpoint
from firstdiff.traces import open_trace


def names(found: Bisection) -> list[str]:
    assert found.inside is not None, found.summary
    return [spot.function for spot in found.inside.spots]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A checkpoint, and a reference whose model is nowhere to be found."""
    folder = tmp_path_factory.mktemp("alone")
    checkpoint = write_checkpoint(folder / "here")
    options: dict[str, Any] = {"inputs": discriminating_inputs(), "floor": ("float32",)}
    firstdiff.capture(f"hf:{checkpoint}", folder / "ref.h5", **options)
    os.rename(checkpoint, folder / "there")
    return folder / "there", folder / "ref.h5"


@pytest.mark.parametrize(
    ("port", "scan", "name", "functions"),
    [
        ("linen", True, "rotary_interleaved", ["rotate_half", "rotate_half_interleaved"]),
        ("nnx", False, "gqa_tiled", ["repeat_kv", "repeat_kv_tiled"]),
        ("linen", False, "norm_eps", ["Qwen2RMSNorm.forward", "rms_norm"]),
        ("linen", False, "causality_missing", ["create_causal_mask", "causal_mask_without_causality"]),
    ],
)  # fmt: skip
def test_the_function_and_the_line_on_both_sides(
    port: str, scan: bool, name: str, functions: list[str], checkpoint: Path, reference: Path
) -> None:
    subject = qwen2.subject(port, checkpoint, fault=name, scan=scan)
    found = firstdiff.bisect(reference, subject, mode="eager")
    assert names(found) == functions
    assert found.runs <= 11
    text = "\n".join(closing_lines(found))
    assert f"In the port: {found.port_line}." in text
    assert f"{port}.py:" in found.port_line
    assert "modeling_qwen2.py:" in text or "masking_utils.py:" in text
    assert "wrong.py:" in text or "ops.py:" in text


def test_wrong_weights_are_told_instead_of_a_function(checkpoint: Path, reference: Path) -> None:
    subject = qwen2.subject("linen", checkpoint, fault="down_layers_swapped")
    found = firstdiff.bisect(reference, subject, mode="eager")
    assert found.inside is None
    assert "layers_0.mlp.down_proj.kernel holds" in found.weights
    assert any(line.startswith("Weights: layers_1.mlp.down_proj") for line in closing_lines(found))


def test_without_the_reference_s_functions_the_port_s_are_listed(alone: tuple[Path, Path]) -> None:
    checkpoint, reference = alone
    subject = qwen2.subject("linen", checkpoint, fault="causality_missing", scan=True)
    found = firstdiff.bisect(reference, subject, mode="eager")
    assert found.inside is None
    assert found.called.startswith("Made in Qwen2ForCausalLM.__call__ with default_position_ids (")
    assert "causal_mask_without_causality (linen.py:" in found.called
    assert "_run_layers" not in found.called  # it goes on with the mask, and did not make it
    assert found.called in closing_lines(found)


def test_nothing_is_looked_into_when_told_so(checkpoint: Path, reference: Path) -> None:
    subject = qwen2.subject("linen", checkpoint, fault="gqa_tiled")
    found = firstdiff.bisect(reference, subject, mode="eager", functions=False)
    assert (found.inside, found.called) == (None, "")
    assert found.runs <= 9
    assert found.port_line.startswith("handed to layers_0.self_attn.o_proj (Dense) at linen.py:")


def test_two_traces_of_functions_tell_the_function(checkpoint: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"level": "function", "verify": False}
    inputs = discriminating_inputs()
    firstdiff.capture(f"hf:{checkpoint}", tmp_path / "ref.h5", inputs=inputs, **options)
    subject = qwen2.subject("linen", checkpoint, fault="gqa_tiled")
    firstdiff.capture(
        subject, tmp_path / "port.h5", inputs=inputs, mode="eager", floor=(), **options
    )
    found = firstdiff.bisect(tmp_path / "ref.h5", tmp_path / "port.h5")
    assert names(found) == ["repeat_kv", "repeat_kv_tiled"]
    assert [step.question for step in found.steps][-1] == "everything in layers.0"


def test_a_table_that_every_layer_receives_is_wrong_where_it_is_made(
    checkpoint: Path, reference: Path, tmp_path: Path
) -> None:
    subject = qwen2.subject("linen", checkpoint, fault="rope_theta")
    port = tmp_path / "port.h5"
    firstdiff.capture(subject, port, inputs=reference, mode="eager", verify=False)
    found = firstdiff.bisect(reference, port)
    assert found.first is not None
    assert (found.first.name, found.first.key.site) == ("rotary_emb", "output")


def test_a_module_without_functions_of_its_own_lists_none(
    checkpoint: Path, reference: Path
) -> None:
    subject = qwen2.subject("linen", checkpoint, fault="down_layers_swapped")
    found = firstdiff.bisect(reference, subject, mode="eager")
    with open_trace(
        reference
    ) as trace:  # of modules alone, as a run would be that looked inside nothing
        spotted = Spotted(found.finding, found.rows, reference)
        assert called(trace, ("model.layers.0.mlp.down_proj",), spotted) == ""
