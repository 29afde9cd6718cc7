"""Decoding on both sides, step by step: right ports agree, and faults that decoding alone shows are placed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import firstdiff
from firstdiff.decoding import Decoding, Tokens, positions_of
from firstdiff.diff import Diff
from firstdiff.models import qwen2
from firstdiff.models.checkpoint import discriminating_inputs
from firstdiff.models.decoding_faults import DECODING_FAULTS
from firstdiff.traces import open_trace
from firstdiff.traces.errors import OptionError

STEPS = 6


@pytest.fixture(scope="module")
def decoded(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reference with six tokens after a prompt of two rows with unequal padding on the left."""
    path = tmp_path_factory.mktemp("decoding") / "ref.h5"
    firstdiff.capture(
        f"hf:{checkpoint}", path, inputs=discriminating_inputs(tokens=20), steps=STEPS
    )
    return path


@pytest.fixture
def checked(checkpoint: Path, decoded: Path) -> Callable[..., Diff]:
    """``checked(name, ...)``: a port of the checkpoint against that reference, run eagerly."""

    def check(
        framework: str = "linen",
        *,
        cached: bool = True,
        steps: int | None = None,
        mode: str = "eager",
        **options: Any,
    ) -> Diff:
        port = qwen2.subject(framework, checkpoint, **options)
        port = port if cached else replace(port, step=None, cache=None)
        return firstdiff.check(decoded, port, steps=steps, mode=mode, replay=False, verify=False)

    return check


def test_the_reference_says_which_tokens_it_ran(decoded: Path) -> None:
    with open_trace(decoded) as trace:
        told = trace.header.extra["decoding"]
        assert (told["steps"], told["chosen"]) == (STEPS, "greedy")
        logits = {
            a.key.step: trace.values(a)[:, -1] for a in trace.find("") if a.key.leaf == "logits"
        }
        fed = {a.key.step: trace.values(a) for a in trace.find("") if a.key.leaf == "input_ids"}
        positions = trace.input_values("position_ids")
        mask = trace.input_values("attention_mask")
    assert sorted(logits) == list(range(STEPS + 1))
    for step, tokens in enumerate(told["tokens"]):
        assert tokens == logits[step].argmax(-1).tolist()  # greedy
        assert fed[step + 1].tolist() == [[token] for token in tokens]
    assert np.array_equal(positions, positions_of(mask))


@pytest.mark.parametrize(
    "options",
    [
        {"mode": "jit"},
        {"mode": "jit", "scan": True},
        {"dtype": "bfloat16"},
        {"cached": False, "steps": 2},
        {"framework": "nnx", "steps": 1},
        {"framework": "equinox", "steps": 1},
        {"framework": "haiku", "steps": 1},
    ],
    ids=["jit", "scan", "bfloat16", "uncached", "nnx", "equinox", "haiku"],
)
def test_a_right_port_agrees_in_every_step(
    checked: Callable[..., Diff], options: dict[str, Any]
) -> None:
    result = checked(**options)
    assert result.finding is None, result.summary
    steps = options.get("steps", STEPS)
    assert {row.key.step for row in result.rows if row.pair is not None} == set(range(steps + 1))
    assert result.generation is not None
    assert result.generation.steps == steps
    assert result.generation.choices == 2 * (steps + 1)
    assert all(choice.tie for choice in result.generation.differing)
    counts = {
        step: sum(row.pair is not None and row.key.step == step for row in result.rows)
        for step in range(steps + 1)
    }
    assert min(counts.values()) > 70  # as much is paired in a step as in the prompt
    assert max(counts.values()) - min(counts.values()) <= 4


@pytest.mark.parametrize("name", DECODING_FAULTS)
def test_a_fault_of_decoding_is_found_at_its_step_and_place(
    checked: Callable[..., Diff], name: str
) -> None:
    fault = DECODING_FAULTS[name]
    assert checked(fault=fault, steps=0).finding is None  # the prompt does not show it
    result = checked(fault=fault, steps=2)
    first = result.first
    assert first is not None
    assert (first.key.step, first.name, first.key.site) == (1, fault.activation, "input")
    assert result.summary.startswith("First divergence: in step 1, ")
    assert result.finding is not None
    assert result.finding.region == fault.module


def test_the_first_other_token_is_told_with_its_margin(
    checked: Callable[..., Diff], tmp_path: Path
) -> None:
    result = checked(fault=DECODING_FAULTS["cache_first_place"])
    found = result.generation
    assert found is not None
    first = found.differing[0]
    assert not first.tie
    assert first.step >= 1
    assert first.position == 20 + first.step
    assert first.margin > 0
    assert f"after step {first.step}, row {first.row}" in found.sentence
    assert "margin between the two best" in found.sentence
    assert found.sentence in result.to_html(tmp_path / "report.html").read_text("utf-8")


def test_a_port_that_chooses_for_itself_is_compared_as_long_as_it_says_the_same(
    checkpoint: Path, decoded: Path, tmp_path: Path
) -> None:
    port = qwen2.subject("linen", checkpoint, fault=DECODING_FAULTS["cache_first_place"])
    path = tmp_path / "port.h5"
    firstdiff.capture(port, path, inputs=decoded, steps=Decoding(STEPS), mode="eager", verify=False)
    with open_trace(path) as own, open_trace(decoded) as reference:
        sides = [trace.header.extra["decoding"]["tokens"] for trace in (reference, own)]
    same = next(n for n, (one, other) in enumerate(zip(*sides, strict=True)) if one != other)
    result = firstdiff.diff(decoded, path)
    assert result.generation is not None
    assert max(row.key.step for row in result.rows if row.pair is not None) == same
    assert f"From step {same + 1} on the two ran different tokens" in result.generation.sentence


def test_replay_judges_every_step(checkpoint: Path, decoded: Path, tmp_path: Path) -> None:
    from firstdiff.port_replay import replay_port
    from firstdiff.recording import as_subject
    from firstdiff.reference_replay import replay_reference

    right = replay_port(decoded, qwen2.subject("linen", checkpoint), mode="eager")
    assert (right.faults, right.suspects) == ((), ())
    assert {row.row.key.step for row in right.rows} == set(range(STEPS + 1))
    wrong = qwen2.subject("linen", checkpoint, fault=DECODING_FAULTS["cache_first_place"])
    found = replay_port(decoded, wrong, mode="eager").faults
    assert {(f.activation, f.site) for f in found} == {
        (f"layers.{n}.self_attn.o_proj", "input") for n in range(2)
    }
    path = tmp_path / "port.h5"
    firstdiff.capture(wrong, path, inputs=decoded, steps=STEPS, mode="eager", verify=False)
    back = replay_reference(as_subject(f"hf:{checkpoint}"), path)
    assert {(f.activation, f.site) for f in back.faults} == {(f.activation, f.site) for f in found}


def test_steps_that_cannot_be_are_refused(checkpoint: Path, reference: Path, decoded: Path) -> None:
    port = qwen2.subject("linen", checkpoint)
    with pytest.raises(
        OptionError, match="records no decoding; capture the reference with --steps 3"
    ):
        firstdiff.check(reference, port, steps=3)
    with pytest.raises(OptionError, match="only 6 tokens are given"):
        firstdiff.check(decoded, port, steps=9)
    padded = np.array([[1, 1, 0]])
    with pytest.raises(OptionError, match="ends with padding"):
        Tokens.of({"input_ids": np.ones((1, 3), np.int64), "attention_mask": padded})
    with pytest.raises(OptionError, match="there are none"):
        Tokens.of({"pixels": padded})


def test_the_command_line_decodes(
    checkpoint: Path, tmp_path: Path, firstdiff_cli: Callable[..., Any]
) -> None:
    ref = tmp_path / "ref.h5"
    done = firstdiff_cli(
        "capture",
        f"hf:{checkpoint}",
        "-o",
        ref,
        "--input-ids",
        "5,6,7,8,9",
        "--steps",
        "2",
        "--no-floor",
    )
    assert done.code == 0, done.err
    done = firstdiff_cli("check", ref, f"hf:{checkpoint}", "--steps", "1")
    assert done.code == 0, done.err
    assert "Decoding: 1 steps, the same most likely token in 2 of 2 places." in done.out
