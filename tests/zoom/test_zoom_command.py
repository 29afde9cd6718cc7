"""The command, its reports and refusals, and the hint that `check` prints."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from firstdiff.traces import open_trace

PORT = """
from firstdiff.models import qwen2

def build():
    return qwen2.subject("linen", {checkpoint!r}, fault="rotary_interleaved")
"""


@pytest.fixture(scope="module")
def port(checkpoint: Path) -> str:
    """A port file with one fault, as the command line takes it."""
    file = checkpoint.parent / "port_with_fault.py"
    file.write_text(PORT.format(checkpoint=str(checkpoint)))
    return f"{file}:build"


def test_check_prints_the_zoom_to_run_next_and_that_zoom_answers(
    firstdiff_cli, reference, checkpoint, port, tmp_path
):
    done = firstdiff_cli("check", reference, port, "--eager", "--no-replay", "--json")
    command = json.loads(done.out)["next_step"]
    assert (
        command == f"firstdiff zoom hf:{checkpoint} {port} layers.0.self_attn --inputs {reference}"
    )
    page = tmp_path / "zoom.html"
    shown = firstdiff_cli(*command.split()[1:], "--eager", "--html", page)
    assert shown.code == 1
    assert "rotate_half_interleaved  output    f32[2,4,48,16]  NO EQUAL" in shown.out
    assert "In the port it goes wrong in rotate_half_interleaved (wrong.py:" in " ".join(
        shown.out.split()
    )
    assert "rotate_half_interleaved" in page.read_text()


def test_a_trace_of_functions_is_named_in_the_hint(firstdiff_cli, function_trace, port):
    done = firstdiff_cli("check", function_trace, port, "--eager", "--no-replay", "--json")
    command = json.loads(done.out)["next_step"]
    assert command == f"firstdiff zoom {function_trace} {port} layers.0.self_attn"


def test_a_trace_of_modules_is_refused_with_the_remedy(firstdiff_cli, reference, port):
    done = firstdiff_cli("zoom", reference, port, "layers.0.self_attn", "--eager")
    assert done.code == 2
    assert "it holds modules only; capture it again with --level function" in done.err


def test_an_unknown_module_and_level_are_refused(firstdiff_cli, function_trace, port):
    done = firstdiff_cli("zoom", function_trace, port, "layers.7", "--eager")
    assert done.code == 2
    assert "layers.7: no aligned module has this path; there are" in done.err
    done = firstdiff_cli("zoom", function_trace, port, "--level", "line")
    assert "--level line: it is function or op" in done.err


def test_capture_takes_a_level_and_refuses_others(firstdiff_cli, checkpoint, tmp_path):
    path = tmp_path / "ops.h5"
    arguments = ("--no-floor", "--no-verify", "--input-ids", "1,2,3,4")
    done = firstdiff_cli("capture", f"hf:{checkpoint}", "-o", path, "--level", "op", *arguments)
    assert done.code == 0, done.err
    with open_trace(path) as trace:
        assert {a.key.level for a in trace.deeper} == {"function", "op"}
        assert {a.key.level for a in trace.activations} == {"module"}
        assert trace.header.selection["level"] == "op"
        assert "rotate_half()" in trace.header.extra["functions"]
    done = firstdiff_cli("capture", f"hf:{checkpoint}", "-o", path, "--level", "line", "--force")
    assert "--level line: it is one of module, function, op" in done.err


def test_modules_are_compared_as_without_a_level(reference, function_trace):
    from firstdiff.diff import diff

    result = diff(reference, function_trace)
    assert result.counts.missing == result.counts.extra == 0
    assert result.finding is None
