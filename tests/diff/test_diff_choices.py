"""Choices are compared exactly, unless each side chose the largest of its own scores, and those agree."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from firstdiff.diff import Diff, diff
from firstdiff.traces import Header, Key, TraceWriter

RANDOM = np.random.default_rng(5)
SCORES = RANDOM.normal(size=(40, 6)).astype(np.float32)
SCORES[7, :2] = 3.0, np.nextafter(np.float32(3.0), np.float32(4))
OTHER = SCORES.copy()
OTHER[7, :2] = SCORES[7, 1::-1]


def chosen(scores: np.ndarray, k: int = 1) -> np.ndarray:
    return np.ascontiguousarray(np.argsort(-scores, axis=-1)[:, :k])


def compared(folder: Path, *sides: tuple[np.ndarray, np.ndarray]) -> Diff:
    result = RANDOM.normal(size=(40, 16)).astype(np.float32)
    paths = []
    for number, (scores, choice) in enumerate(sides):
        config = {"num_experts_per_tok": sides[0][1].shape[-1]}
        header = Header("torch", model={"config": config}, dtype="float32")
        with TraceWriter(folder / f"{number}.h5", header) as writer:
            writer.write(Key("gate", "output"), scores, dtype="float32")
            writer.write(Key("experts", "input", "chosen"), choice, dtype="int64")
            wrong = result + number  # a divergence behind it: nothing heals
            writer.write(Key("experts", "output"), wrong, dtype="float32")
            paths.append(writer.finish())
    return diff(*paths)


def test_a_tie_that_rounding_broke_is_no_divergence(tmp_path: Path) -> None:
    result = compared(tmp_path, (SCORES, chosen(SCORES)), (OTHER, chosen(OTHER)))
    assert result.first is not None
    assert (result.first.name, result.first.key.site) == ("experts", "output")
    (row,) = (row for row in result.rows if row.key.leaf == "chosen")
    assert row.verdict.kind == "agrees"
    assert "where scores tie" in row.verdict.notes[0]


def test_a_choice_against_the_own_scores_is_one(tmp_path: Path) -> None:
    wrong = chosen(SCORES)
    wrong[3] = chosen(-SCORES)[3]
    result = compared(tmp_path, (SCORES, chosen(SCORES)), (SCORES, wrong))
    assert result.first is not None
    assert (result.first.name, result.first.key.leaf) == ("experts", "chosen")


@pytest.mark.parametrize(("ours", "theirs"), [(2, 1), (2, 3)])
def test_another_number_of_choices_is_placed_and_named(
    ours: int, theirs: int, tmp_path: Path
) -> None:
    result = compared(tmp_path, (SCORES, chosen(SCORES, ours)), (SCORES, chosen(SCORES, theirs)))
    assert result.first is not None
    assert (result.first.name, result.first.key.leaf) == ("experts", "chosen")
    assert result.explanation is not None
    assert result.explanation.cause == "number of experts"
