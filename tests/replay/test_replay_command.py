"""`replay` as a function and a command, what `check` says of further faults, and refusals."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import firstdiff
from firstdiff.models import qwen2
from firstdiff.models.subject import Subject
from firstdiff.recording import as_subject, record
from firstdiff.traces.errors import OptionError


def test_check_lists_other_faults_after_a_divergence(
    checkpoint: Path, reference: Path, tmp_path: Path
) -> None:
    subject = qwen2.subject("linen", checkpoint, fault="gelu_for_silu")
    options: dict[str, Any] = {"mode": "eager", "verify": False}
    found = firstdiff.check(reference, subject, output=tmp_path / "a.h5", **options)
    assert found.other_faults == "layers.1.mlp.act_fn."
    silent = firstdiff.check(reference, subject, output=tmp_path / "b.h5", replay=False, **options)
    assert silent.other_faults == ""
    assert silent.finding == found.finding


def test_the_command_judges_a_ports_trace_with_pytorch_alone(
    ported: Callable[..., Any], checkpoint: Path, firstdiff_cli: Callable[..., Any]
) -> None:
    run = ported("rotary_interleaved")
    done = firstdiff_cli("replay", f"hf:{checkpoint}", run.trace)
    assert done.code == 1
    assert "2 independent faults in 77 activations, each on the port's own inputs." in done.out
    assert "glue in layers.{0-1}.self_attn, between q/k/v_proj and o_proj" in done.out
    assert re.search(r"\d+\.\d s for 3 forced passes", done.out)
    done = firstdiff_cli("replay", f"hf:{checkpoint}", run.trace, "--only", "*.mlp", "--json")
    assert done.code == 0
    result = json.loads(done.out)
    assert result["faults"] == []
    assert {row["row"]["name"] for row in result["rows"]} == {"layers.0.mlp", "layers.1.mlp"}


def test_torch_against_torch_in_both_directions(
    checkpoint: Path, reference: Path, torch_model: Subject, tmp_path: Path
) -> None:
    wrong = as_subject(f"hf:{checkpoint}")
    with torch.no_grad():
        wrong.model.model.layers[1].mlp.down_proj.weight[3] *= -1
    path = tmp_path / "wrong.h5"
    record(wrong, path, inputs=reference, floor=(), verify=False)
    for found in (firstdiff.replay(torch_model, path), firstdiff.replay(reference, wrong)):
        assert [fault.title for fault in found.faults] == ["layers.1.mlp.down_proj"]
        assert found.exit_code == 1


def test_what_a_replay_refuses(reference: Path, torch_model: Subject, tmp_path: Path) -> None:
    with pytest.raises(
        OptionError, match="both are traces; give the reference's trace and the port"
    ):
        firstdiff.replay(reference, reference)
    with pytest.raises(OptionError, match="neither is a trace"):
        firstdiff.replay(torch_model, torch_model)
    inputs = {"input_ids": np.arange(1, 9)[None]}
    bare, digest = tmp_path / "bare.h5", tmp_path / "digest.h5"
    record(torch_model, bare, inputs=inputs, floor=(), verify=False)
    assert any("stand-in" in note for note in firstdiff.replay(bare, torch_model).notes)
    record(torch_model, digest, inputs=inputs, floor=(), verify=False, digest=True)
    with pytest.raises(OptionError, match="digests only, and a replay forces values"):
        firstdiff.replay(digest, torch_model)
    port = Subject(model={}, call=lambda _model, **_given: None, name="port.py:build")
    with pytest.raises(
        OptionError, match=r"port\.py:build: a reference replay needs a PyTorch model"
    ):
        firstdiff.replay(replace(port), reference)
