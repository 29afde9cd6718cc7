"""In bfloat16 what rounding does inside modules was measured with the reference: right code gives no alarm."""

from __future__ import annotations

from pathlib import Path

import pytest

import firstdiff
from firstdiff.diff.local import recorded_floors
from firstdiff.models import qwen2
from firstdiff.models.checkpoint import discriminating_inputs
from firstdiff.recording import as_subject, record
from firstdiff.traces import open_trace
from firstdiff.traces.dtypes import unit_roundoff
from firstdiff.zooming import zoom


@pytest.fixture(scope="module")
def narrow(checkpoint: Path) -> Path:
    """The reference in bfloat16 with its functions and floors."""
    path = checkpoint.parent / "functions-bfloat16.h5"
    model = as_subject(f"hf:{checkpoint}", "bfloat16")
    record(model, path, inputs=discriminating_inputs(), level="function", floor=("bfloat16",))
    return path


def test_functions_have_local_floors(narrow):
    with open_trace(narrow) as trace:
        floors = recorded_floors(trace, "bfloat16", rounded_alike=True)
        attention = next(
            a
            for a in trace.deeper
            if a.key.method == "eager_attention_forward()" and a.key.site == "output"
        )
        found = floors(attention)
        assert found is not None
        assert 0.2 < found.native.rms / attention.digest.rms / unit_roundoff("bfloat16") < 4
        assert found.native.rows.size


@pytest.mark.parametrize("module", ["layers.0.self_attn", "layers.1", "."])
def test_a_right_port_gives_no_alarm(narrow, checkpoint, module):
    port = qwen2.subject("linen", checkpoint, dtype="bfloat16")
    assert zoom(narrow, port, module, mode="eager").spots == ()


def test_check_names_the_function(narrow, checkpoint):
    port = qwen2.subject("linen", checkpoint, fault="rotary_exchanged", dtype="bfloat16")
    result = firstdiff.check(narrow, port, mode="eager", verify=False, replay=False)
    found = {spot.side: spot.function for spot in result.zoom.spots}
    assert found["reference"] == "apply_rotary_pos_emb"


def test_the_model_itself_measures_them(checkpoint):
    port = qwen2.subject("linen", checkpoint, fault="gqa_tiled", dtype="bfloat16")
    model = as_subject(f"hf:{checkpoint}", "bfloat16")
    result = zoom(model, port, "layers.0.self_attn", inputs=discriminating_inputs(), mode="eager")
    assert [spot.function for spot in result.spots] == ["repeat_kv", "repeat_kv_tiled"]
