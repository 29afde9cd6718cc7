"""Every fault of a replay is explained by itself, in both directions; the same one of several layers once."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console

from firstdiff.diff.report.replay import print_replay
from firstdiff.models.faults import FAULTS, Fault, find

if TYPE_CHECKING:
    from firstdiff.diff.replayed import Replay


def causes(result: Replay) -> dict[tuple[str, str], str | None]:
    """The cause of each explained fault, by (module, site)."""
    return {
        (f.activation, f.site): f.explanation.cause
        for f in result.faults
        if f.explanation is not None
    }


@pytest.mark.parametrize(
    "name",
    ["rotary_interleaved", "gelu_for_silu", "norms_swapped", "gate_up_swapped", "rope_theta"],
)
def test_both_directions_name_the_cause(ported: Callable[..., Any], name: str) -> None:
    run, fault = ported(name), FAULTS[name]
    for result in (run.port(mode="eager"), run.backward()):
        found = causes(result)
        assert found[fault.activation, fault.site] == fault.cause
        assert set(found.values()) == {fault.cause}


def test_the_cause_of_a_later_fault_is_named_behind_an_earlier_one(
    ported: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = find("rotary_interleaved"), find("gelu_for_silu")
    both: Fault = replace(
        one, name="rotary_interleaved+gelu_for_silu", functions={**one.functions, **other.functions}
    )
    run = ported(both)
    for result in (run.port(mode="eager"), run.backward()):
        assert causes(result) == {
            (fault.activation, fault.site): fault.cause for fault in (one, other)
        }
        assert json.loads(result.to_json())["faults"][0]["explanation"]["cause"] == one.cause
    print_replay(result, console=Console(width=80))
    said = capsys.readouterr().out.splitlines()
    place = next(n for n, line in enumerate(said) if line.startswith("  layers.{0-1}.mlp.act_fn"))
    assert said[place + 1].startswith("      likely cause: activation function. Applying GELU")
    assert said[place + 2].startswith("      "), "what goes on is indented"


@pytest.mark.parametrize("name", ["padding_ignored", "mask_infinite"])
def test_the_cause_of_what_is_compared_exactly_or_is_not_finite(
    ported: Callable[..., Any], name: str
) -> None:
    run, fault = ported(name), FAULTS[name]
    for result in (run.port(mode="eager"), run.backward()):
        assert causes(result)[fault.activation, fault.site] == fault.cause
