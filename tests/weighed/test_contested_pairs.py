"""Behind a fault, replay tells exchanged weights from exchanged names: by the pairing that leaves less wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from gated_models import EXCHANGED, RIGHT, State, exchanged, linen_subject

import firstdiff
from firstdiff.diff.replayed import Replay

NORM = ("layers.0.norm", "output")
GATE, UP = ("layers.0.mlp.gate_proj", "output"), ("layers.0.mlp.up_proj", "output")


def broken(weights: State) -> State:
    """``weights`` with the first norm damaged, which runs before everything that is exchanged."""
    return weights | {"layers.0.norm.weight": torch.ones(32)}


def crossed_layers(weights: State) -> State:
    """``weights`` with down_proj of the two layers exchanged."""
    one, other = (f"layers.{n}.mlp.down_proj.weight" for n in (0, 1))
    return weights | {one: weights[other], other: weights[one]}


def places(result: Replay) -> list[tuple[str, str]]:
    return [(fault.activation, fault.site) for fault in result.faults]


def decided(result: Replay) -> list[str]:
    return [note.rpartition(": ")[2] for note in result.notes if "contradict each other" in note]


def test_exchanged_weights_behind_a_fault_are_placed(reference: Path, weights: State) -> None:
    port = linen_subject(exchanged(broken(weights)), names=RIGHT)
    result = firstdiff.replay(str(reference), port, mode="eager")
    assert {NORM, GATE, UP} < set(places(result))
    assert {path.rpartition(".")[2] for path, _ in places(result)} == {
        "norm",
        "gate_proj",
        "up_proj",
    }
    assert decided(result) == [
        "by name less is wrong, or no more, so the weights are taken for exchanged"
    ]


def test_exchanged_names_behind_a_fault_are_no_fault(reference: Path, weights: State) -> None:
    port = linen_subject(exchanged(broken(weights)), names=EXCHANGED)
    result = firstdiff.replay(str(reference), port, mode="eager")
    assert places(result) == [NORM]
    assert decided(result) == ["by weights less is wrong, so the names are taken for exchanged"]


def test_exchanged_layers_behind_a_fault_are_placed(reference: Path, weights: State) -> None:
    port = linen_subject(crossed_layers(broken(weights)))
    result = firstdiff.replay(str(reference), port, mode="eager")
    downs = [(f"layers.{n}.mlp.down_proj", "output") for n in (0, 1)]
    assert places(result) == [NORM, *downs]


@pytest.mark.parametrize("names", [RIGHT, EXCHANGED])
def test_nothing_is_replayed_twice_without_a_doubt(
    reference: Path, weights: State, names: tuple[str, str]
) -> None:
    """Alone, activations tell an exchange of names from one of weights."""
    port = linen_subject(exchanged(weights), names=names)
    result = firstdiff.replay(str(reference), port, mode="eager")
    assert decided(result) == []
    assert result.cost.passes == 1
    assert bool(result.faults) == (names == RIGHT)
