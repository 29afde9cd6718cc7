"""A reference that cannot be run again: what stands in for its floors is named, and right ports still agree."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from firstdiff.diff import diff
from firstdiff.diff.stand_in import recorded
from firstdiff.inputs import trace_inputs
from firstdiff.models.subject import Subject
from firstdiff.port_replay import replay_port
from firstdiff.recording import record
from firstdiff.traces import open_trace

FREE = {
    ("float32", ("float32",)): "recorded",
    ("float32", ("bfloat16",)): "no floor recorded for float32: that of bfloat16, scaled",
    ("float32", ()): "no floor recorded: 85 u stand-in for float32",
    ("bfloat16", ("bfloat16",)): "recorded",
    ("bfloat16", ("float32",)): "no floor recorded for bfloat16: that of float32, scaled",
    ("bfloat16", ("float16",)): "no floor recorded for bfloat16: that of float16, scaled",
    ("bfloat16", ()): "no floor recorded: 11 u stand-in for bfloat16",
}
"""What judges a comparison, by the port's dtype and the dtypes that have a floor."""


@pytest.fixture(scope="session")
def left(
    reference: Path, torch_model: Subject, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[tuple[str, ...]], Path]:
    """The reference's trace with floors for these dtypes alone."""
    folder, made = tmp_path_factory.mktemp("left"), dict[tuple[str, ...], Path]()

    def trace(floor: tuple[str, ...]) -> Path:
        if floor not in made:
            with open_trace(reference) as whole:
                inputs = trace_inputs(whole)
            path = folder / f"{'_'.join(floor) or 'none'}.h5"
            record(torch_model, path, inputs=inputs, floor=floor, verify=False)
            made[floor] = path
        return made[floor]

    return trace


@pytest.mark.parametrize(("dtype", "floor"), FREE)
def test_a_right_port_agrees_whatever_stands_in(
    dtype: str, floor: tuple[str, ...], left: Any, ported: Any
) -> None:
    run = ported(None, dtype=dtype)
    found = diff(left(floor), run.trace)
    assert found.exit_code == 0, found.summary
    assert found.floor == FREE[dtype, floor]
    named = [note for note in found.notes if "are judged with" in note]
    assert bool(named) == (FREE[dtype, floor] != "recorded")


@pytest.mark.parametrize("floor", [("bfloat16",), ()])
def test_a_fault_is_still_placed_with_a_stand_in(floor: Any, left: Any, ported: Any) -> None:
    run = ported("rotary_interleaved")
    found = diff(left(floor), run.trace)
    assert found.exit_code == 1
    assert "layers.0.self_attn" in found.summary


@pytest.mark.parametrize(
    ("dtype", "floor"), [("float32", ()), ("bfloat16", ("float32",)), ("bfloat16", ())]
)
def test_a_replay_names_its_stand_in(
    dtype: str, floor: tuple[str, ...], left: Any, ported: Any
) -> None:
    run = ported(None, dtype=dtype)
    path = left(floor)
    found = replay_port(path, run.subject, free=(run.trace, diff(path, run.trace)))
    multiple = {"float32": "7", "bfloat16": "0.65"}[dtype]
    expected = (
        f"judged with a stand-in (no local floor recorded for {dtype}: {multiple} u stand-in)"
    )
    assert expected in found.notes
    assert found.faults == ()


def test_a_replay_with_a_stand_in_finds_a_fault(left: Any, ported: Any) -> None:
    run, path = ported("rotary_interleaved"), left(())
    found = replay_port(path, run.subject, free=(run.trace, diff(path, run.trace)))
    assert len(found.faults) >= 1


def test_a_floor_against_float32_is_named(left: Any) -> None:
    with open_trace(left(("bfloat16",))) as trace:
        floors = {"bfloat16": {"golden": "float32", "method": "free"}}
        trace.header = replace(trace.header, extra={**trace.header.extra, "floors": floors})
        found = recorded(trace, "bfloat16")
    assert found.source == "a floor against float32, since the reference does not run in float64"
