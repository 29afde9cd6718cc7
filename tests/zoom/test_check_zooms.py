"""`check` names the function by itself where the reference's trace holds functions, and never fails for it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

import firstdiff
from firstdiff.models import qwen2
from firstdiff.models.checkpoint import discriminating_inputs
from firstdiff.models.decoding_faults import DECODING_FAULTS
from firstdiff.models.subject import Subject
from firstdiff.recording import record

PORT = """
from firstdiff.models import qwen2

def build():
    return qwen2.subject("linen", {checkpoint!r}, fault="gqa_tiled")
"""


@pytest.fixture(scope="module")
def port(checkpoint: Path) -> str:
    file = checkpoint.parent / "tiled_port.py"
    file.write_text(PORT.format(checkpoint=str(checkpoint)))
    return f"{file}:build"


def run(reference: Path, subject: Subject, **options):
    return firstdiff.check(reference, subject, mode="eager", verify=False, replay=False, **options)


def test_the_function_is_named_in_text_page_and_json(firstdiff_cli, function_trace, port, tmp_path):
    page = tmp_path / "check.html"
    command = ("check", function_trace, port, "--eager", "--no-replay", "--no-verify")
    shown = firstdiff_cli(*command, "--html", page)
    assert shown.code == 1
    told = " ".join(shown.out.split())
    assert "In the port it goes wrong in repeat_kv_tiled (wrong.py:" in told
    assert "Function by function (" in told
    assert f"Every value of it: firstdiff zoom {function_trace} {port} layers.0.self_attn" in told
    assert "repeat_kv_tiled" in page.read_text()
    assert "<details>" in page.read_text()
    found = json.loads(firstdiff_cli(*command, "--json").out)["zoom"]
    assert found["summary"].endswith("called by eager_attention_forward at ops.py:104.")
    assert [spot["function"] for spot in found["spots"]] == ["repeat_kv", "repeat_kv_tiled"]
    assert found["seconds"] > 0


def test_it_can_be_turned_off(firstdiff_cli, function_trace, port):
    command = ("check", function_trace, port, "--eager", "--no-replay", "--no-verify", "--no-zoom")
    shown = firstdiff_cli(*command)
    assert f"Function by function: firstdiff zoom {function_trace} {port}" in shown.out
    assert "captured with --level function" not in shown.out


def test_a_trace_of_modules_gives_the_command_and_how_to_make_it_automatic(
    firstdiff_cli, reference, port
):
    shown = firstdiff_cli("check", reference, port, "--eager", "--no-replay", "--no-verify")
    assert "Function by function: firstdiff zoom hf:" in shown.out
    told = " ".join(shown.out.split())
    assert "says it by itself where the reference is captured with --level function." in told


def test_what_weights_explain_is_not_followed_into_code(function_trace, checkpoint):
    subject = qwen2.subject("linen", checkpoint, fault="kv_swapped")
    result = run(function_trace, subject)
    assert result.cause.startswith("weights: ")
    assert result.zoom is None


def test_a_port_that_fails_when_it_is_run_again_keeps_its_verdict(function_trace, checkpoint):
    subject = qwen2.subject("linen", checkpoint, fault="gqa_tiled")
    runs = []

    def call(model, **inputs):
        runs.append(1)
        if len(runs) > 1:
            raise MemoryError("no room")
        return subject.call(model, **inputs)

    result = run(function_trace, replace(subject, call=call))
    assert result.finding is not None
    assert result.zoom is None
    assert "was not followed into functions" in result.notes[-1]
    assert "no room" in result.notes[-1]


def test_what_it_takes_is_told(function_trace, checkpoint):
    told: list[str] = []
    run(function_trace, qwen2.subject("linen", checkpoint, fault="gqa_tiled"), progress=told.append)
    assert told[-1] == (
        "running the port once more, looking into layers.0.self_attn, on right inputs"
    )


def test_a_decoding_step_is_not_looked_into(torch_model, checkpoint, tmp_path):
    trace, port = tmp_path / "steps.h5", DECODING_FAULTS["cache_first_place"]
    record(torch_model, trace, inputs=discriminating_inputs(), steps=2, level="function", floor=())
    told = run(trace, qwen2.subject("linen", checkpoint, fault=port))
    assert told.finding is not None
    assert told.zoom is None
    assert any("it is in step 1, they are recorded in the prompt's pass" in n for n in told.notes)
