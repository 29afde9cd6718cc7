"""A replay in bfloat16: what lies below the local floors is known by its pattern, and right ports are left alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from firstdiff.diff import diff
from firstdiff.diff.healing import undecided
from firstdiff.diff.report.replay import print_replay
from firstdiff.models import FAULTS, qwen2
from firstdiff.models.checkpoint import discriminating_inputs
from firstdiff.models.subject import Subject
from firstdiff.port_replay import replay_port
from firstdiff.recording import as_subject, record
from firstdiff.reference_replay import replay_reference
from firstdiff.traces import open_trace

if TYPE_CHECKING:
    from firstdiff.diff.replayed import Replay


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> Subject:
    return as_subject(f"hf:{checkpoint}", "bfloat16")


@pytest.fixture(scope="module")
def replays(
    checkpoint: Path, model: Subject, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., tuple[Replay, Replay]]:
    """Both directions on a port in bfloat16."""
    folder = tmp_path_factory.mktemp("narrow")
    reference, trace = folder / "reference.h5", folder / "port.h5"
    inputs = discriminating_inputs()
    record(model, reference, inputs=inputs, floor=("bfloat16",), verify=False)

    def run(**options: Any) -> tuple[Replay, Replay]:
        subject = qwen2.subject("linen", checkpoint, dtype="bfloat16", **options)
        record(subject, trace, inputs=reference, mode="eager", verify=False, force=True)
        free = trace, diff(reference, trace)
        return (
            replay_port(reference, subject, free=free, mode="eager"),
            replay_reference(model, trace),
        )

    return run


@pytest.mark.parametrize(
    ("name", "cause"),
    [
        ("attention_scale_percent", "attention scale"),
        ("norm_eps_outside", "norm epsilon"),
        ("rotary_bfloat16", "low precision"),
    ],
)
def test_a_mistake_below_the_floor_is_a_suspicion_in_both_directions(
    replays: Callable[..., tuple[Replay, Replay]], name: str, cause: str
) -> None:
    fault = FAULTS[name]
    for result in replays(fault=name):
        assert (result.faults, result.suspects, result.exit_code) == ((), (), 0)
        found = result.suspicions[0]
        assert (found.name, found.site, found.cause) == (fault.activation, fault.site, cause)
        assert abs(found.amplitude - 1) < 0.3
        assert {s.cause for s in result.suspicions} == {cause}
        assert result.summary.endswith("below the floor.")
        assert json.loads(result.to_json())["suspicions"][0]["cause"] == cause


@pytest.mark.parametrize("variant", [None, "attention_float32", "scale_folded", "norms_folded"])
def test_right_ports_are_not_suspected(
    replays: Callable[..., tuple[Replay, Replay]], variant: str | None
) -> None:
    for result in replays(variant=variant):
        assert (result.faults, result.suspects, result.suspicions) == ((), (), ())
        assert result.worst is not None
        assert result.worst.row.verdict.score is not None
        assert result.worst.row.verdict.score < 2.8


def test_a_shift_of_positions_is_without_effect_in_both_directions(
    replays: Callable[..., tuple[Replay, Replay]],
) -> None:
    for result in replays(fault="positions_plus_one"):
        assert (result.faults, result.suspects, result.suspicions) == ((), (), ())
        assert ("rotary_emb", "input") in {(f.activation, f.site) for f in result.without_effect}


def test_the_report_names_the_mistake_once_for_all_layers(
    replays: Callable[..., tuple[Replay, Replay]], capsys: pytest.CaptureFixture[str]
) -> None:
    print_replay(replays(fault="attention_scale_percent")[0])
    said = capsys.readouterr().out
    assert "2 suspicions below the floor." in said
    assert "to be repeated in float32:" in said
    (line,) = [line for line in said.splitlines() if "o_proj" in line]
    assert line.split()[:4] == ["layers.{0-1}.self_attn.o_proj", "input", "attention", "scale:"]
    assert line.endswith("1.00")


def test_a_free_floor_is_asked_for_only_where_healing_hangs_on_it(
    checkpoint: Path, model: Subject, tmp_path: Path
) -> None:
    bare, asked = tmp_path / "bare.h5", {}
    record(model, bare, inputs=discriminating_inputs(), floor=(), verify=False)
    for fault in (None, "head_untied", "positions_plus_one"):
        subject = qwen2.subject("linen", checkpoint, dtype="bfloat16", fault=fault)
        trace = tmp_path / f"{fault}.h5"
        record(subject, trace, inputs=bare, mode="eager", verify=False)
        asked[fault] = undecided(diff(bare, trace).rows)
    assert asked == {None: False, "head_untied": False, "positions_plus_one": True}


def test_a_table_that_was_measured_later_is_read_like_any_other(reference: Path) -> None:
    rows = np.array([(3, 0.5)], [("order", "<i8"), ("error", "<f8")])
    with open_trace(reference) as trace:
        header = replace(trace.header, subject="later")
        later = trace.with_tables({"floor/free/float16": rows}, header)
        assert later.table("floor/free/float16") is rows
        assert set(later.tables) == {*trace.tables, "floor/free/float16"}
        assert later.header.subject == "later"
        assert later.activations == trace.activations
        assert trace.table("floor/free/float16") is None
