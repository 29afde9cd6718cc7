"""Bisecting a deep model: few runs, few readings, and divergences that heal do not mislead."""

from __future__ import annotations

from collections.abc import Callable
from math import ceil, log2
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import firstdiff
from firstdiff.models.subject import Subject
from firstdiff.partial_runs import PartialRuns
from firstdiff.recording import record
from firstdiff.traces.errors import OptionError
from firstdiff.traces.reader import Trace

Make = Callable[..., Subject]
DEPTH = 26  # 24 blocks, the head, the result


def traced(subject: Subject, reference: Path, path: Path) -> Path:
    return record(subject, path, inputs=reference, floor=(), verify=False).path


def test_the_right_model_takes_one_run(deep: Make, deep_reference: Path) -> None:
    found = firstdiff.bisect(deep_reference, deep())
    assert (found.exit_code, found.beyond, len(found.steps)) == (0, "none", 1)


@pytest.mark.parametrize("block", [0, 1, 11, 22, 23])
def test_one_wrong_block_is_found_in_log_n_runs(
    block: int, deep: Make, deep_reference: Path
) -> None:
    found = firstdiff.bisect(deep_reference, deep(wrong={block: 1.01}))
    assert found.exit_code == 1
    assert (found.block, found.last_block, found.beyond) == (f"layers.{block}",) * 2 + ("none",)
    assert found.first is not None
    assert found.first.name == f"layers.{block}"
    assert found.depth == DEPTH
    assert (
        found.runs <= 1 + 1 + ceil(log2(DEPTH)) + 4
    )  # listing, result, search, healed, block, planted, inside
    assert found.compared < 30


def test_the_first_and_the_last_of_several_faults(deep: Make, deep_reference: Path) -> None:
    found = firstdiff.bisect(deep_reference, deep(wrong={5: 1.01, 9: 1.01, 17: 0.9}))
    assert (found.block, found.last_block, found.beyond) == ("layers.5", "layers.17", "faults")
    assert found.runs <= 1 + 1 + 2 * ceil(log2(DEPTH)) + 4
    assert any(step.meaning == "all faults lie before layers.18" for step in found.steps)


def test_a_benign_layout_alone_is_no_fault(deep: Make, deep_reference: Path) -> None:
    found = firstdiff.bisect(deep_reference, deep(turned=(11,)))
    assert (found.exit_code, len(found.steps)) == (0, 1)


@pytest.mark.parametrize(("fault", "met"), [(3, False), (15, True), (20, True)])
def test_a_divergence_that_heals_does_not_mislead(
    fault: int, met: bool, deep: Make, deep_reference: Path
) -> None:
    """Block 11 hands its channels on in another order, and block 12 knows it: where the search looks first."""
    found = firstdiff.bisect(deep_reference, deep(wrong={fault: 1.01}, turned=(11,)))
    assert (found.block, found.last_block) == (f"layers.{fault}",) * 2
    assert found.monotone != met
    assert any("layers.12 receives something else" in note for note in found.notes) == met


def test_only_what_was_asked_for_is_live(
    deep: Make, deep_reference: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: list[int] = []
    run = PartialRuns.run

    def counted(self: PartialRuns, wanted: Any, planted: Any = None) -> Trace:
        trace = run(self, wanted, planted)
        counts.append(len(trace.activations))
        return trace

    monkeypatch.setattr(PartialRuns, "run", counted)
    firstdiff.bisect(deep_reference, deep(wrong={13: 1.01}))
    assert (
        max(counts) <= 7
    )  # a block: its input and result, those of two modules, the next block's input


def reads(monkeypatch: pytest.MonkeyPatch, reference: Path) -> list[str]:
    """Paths of the activations whose elements were read from the trace ``reference``; its kept parameters are none."""
    found: list[str] = []
    stored = Trace.stored

    def counted(self: Trace, activation: Any) -> np.ndarray:
        if self.path == reference and activation.key.path and activation in self.activations:
            found.append(f"{activation.key.path} {activation.key.site}")
        return stored(self, activation)

    monkeypatch.setattr(Trace, "stored", counted)
    return found


def test_two_traces_are_read_at_log_n_places(
    deep: Make, deep_reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = traced(deep(wrong={13: 1.01}), deep_reference, tmp_path / "port.h5")
    found_reads = reads(monkeypatch, deep_reference)
    found = firstdiff.bisect(deep_reference, port)
    assert (found.block, found.runs, found.monotone, found.beyond) == (
        "layers.13",
        0,
        True,
        "unknown",
    )
    outside = {r for r in found_reads if not r.startswith(("layers.13", "layers.14 "))}
    assert len(outside) <= ceil(log2(DEPTH)) + ceil(
        log2(DEPTH)
    )  # the search, and whether it healed later
    assert len(set(found_reads)) <= 2 * ceil(log2(DEPTH)) + 7


def test_two_traces_whose_order_is_not_monotone_are_scanned(
    deep: Make, deep_reference: Path, tmp_path: Path
) -> None:
    subject = deep(wrong={20: 1.01}, turned=(11,))
    port = traced(subject, deep_reference, tmp_path / "port.h5")
    found = firstdiff.bisect(deep_reference, port)
    assert (found.block, found.monotone) == ("layers.20", False)
    assert "not monotone: layers.12 differs and heals later" in found.notes[0]


def test_what_cannot_be_bisected_is_said(deep: Make, deep_reference: Path, tmp_path: Path) -> None:
    digests = record(
        deep(), tmp_path / "d.h5", inputs=deep_reference, floor=(), digest=True, verify=False
    )
    with pytest.raises(OptionError, match="digests only"):
        firstdiff.bisect(digests.path, deep())
    with pytest.raises(OptionError, match="is a trace"):
        firstdiff.bisect(deep_reference, deep_reference, dtype="float32")


def test_the_command_line_prints_each_question(
    deep: Make, deep_reference: Path, tmp_path: Path, firstdiff_cli: Any
) -> None:
    port = traced(deep(wrong={13: 1.01}), deep_reference, tmp_path / "port.h5")
    done = firstdiff_cli("bisect", deep_reference, port)
    assert done.code == 1, done.err
    lines = done.out.splitlines()
    assert lines[0].startswith("the result: DIVERGES, error / floor ")
    assert any(line.startswith("what layers.12 receives: agrees") for line in lines)
    assert any("First divergence: inside layers.13" in line for line in lines)
    assert "26 places to cut" in done.out
    done = firstdiff_cli("bisect", deep_reference, deep_reference, "--json")
    assert done.code == 0
    assert '"depth": 26' in done.out
