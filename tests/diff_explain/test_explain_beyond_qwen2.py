"""Routers, pooled tokens, images, patches, fused projections: hand-made pairs of traces with one mistake each."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from firstdiff.diff import Diff
from firstdiff.diff.explain.activations import FUNCTIONS
from firstdiff.diff.explain.fused import CUTS, cut
from firstdiff.diff.explain.pooling import POOLS
from firstdiff.diff.explain.router import WEIGHINGS

Pair = Callable[..., Diff]
RANDOM = np.random.default_rng(3)
LOGITS = RANDOM.normal(size=(64, 6))
CHOSEN = np.argsort(-LOGITS, axis=-1)[:, :2]
TOKENS = RANDOM.normal(size=(2, 9, 32))
IMAGE = RANDOM.normal(size=(2, 3, 8, 8))


def cause(result: Diff) -> str | None:
    assert result.explanation is not None
    return result.explanation.cause


def routed(pair: Pair, right: str, wrong: str) -> Diff:
    def entries(name: str) -> list[tuple[str, str, str, np.ndarray]]:
        weights = WEIGHINGS[name](LOGITS, CHOSEN)
        return [("mlp.gate", "output", "0", LOGITS), ("mlp.gate", "output", "1", weights)]

    return pair(entries(right), entries(wrong))


@pytest.mark.parametrize(
    ("right", "wrong"), [(r, w) for r in WEIGHINGS for w in WEIGHINGS if r != w]
)
def test_weights_of_chosen_experts(right: str, wrong: str, pair: Pair) -> None:
    result = routed(pair, right, wrong)
    assert cause(result) == "router weights"
    assert wrong in result.cause


def test_weights_that_no_way_of_weighing_makes_are_not_explained(pair: Pair) -> None:
    other = RANDOM.uniform(size=CHOSEN.shape)
    ours = [("gate", "output", "0", LOGITS), ("gate", "output", "1", other)]
    theirs = [("gate", "output", "0", LOGITS), ("gate", "output", "1", other[:, ::-1])]
    assert cause(pair(ours, theirs)) != "router weights"


@pytest.mark.parametrize("wrong", [name for name in POOLS if "real" not in name][1:])
def test_what_is_pooled(wrong: str, pair: Pair) -> None:
    def entries(name: str) -> list[tuple[str, str, str, np.ndarray]]:
        pooled = POOLS[name](TOKENS, np.ones(TOKENS.shape[:2], bool))
        return [("norm", "output", "", TOKENS), ("pooler.dense", "input", "x", pooled)]

    result = pair(entries("the first token"), entries(wrong))
    assert cause(result) == "pooled token"
    assert f"Pooling {wrong} instead of the first token" in result.cause


@pytest.mark.parametrize(
    ("turn", "named"),
    [
        (lambda x: x[:, ::-1], "image layout"),
        (lambda x: 2 * x - 1, "pixel range"),
        (lambda x: x / 255, "pixel range"),
    ],
)
def test_images(turn: Callable[[np.ndarray], np.ndarray], named: str, pair: Pair) -> None:
    def entries(image: np.ndarray) -> list[tuple[str, str, str, np.ndarray]]:
        return [("embeddings", "input", "x", IMAGE), ("embeddings.conv", "input", "x", image)]

    assert cause(pair(entries(IMAGE), entries(turn(IMAGE)))) == named


PATCHES = RANDOM.normal(size=(2, 9, 32))
POSITIONS = RANDOM.normal(size=(10, 32))
CLASS = RANDOM.normal(size=32)


def joined(patches: np.ndarray, positions: np.ndarray, front: np.ndarray) -> np.ndarray:
    first = np.broadcast_to(front, (2, 1, 32))
    return np.concatenate([first, patches], axis=1) + positions


def embedded(pair: Pair, wrong: np.ndarray) -> Diff:
    right = joined(PATCHES, POSITIONS, CLASS)
    sides = [
        [("embeddings.patches", "output", "", PATCHES), ("embeddings", "output", "", made)]
        for made in (right, wrong)
    ]
    return pair(*sides)


COLUMNS = np.arange(9).reshape(3, 3).T.reshape(-1)
MIXED = np.array([4, 1, 0, 3, 8, 5, 6, 7, 2])


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        (joined(PATCHES[:, COLUMNS], POSITIONS, CLASS), "patch order"),
        (joined(PATCHES[:, MIXED], POSITIONS, CLASS), "patch order"),
        (joined(PATCHES, POSITIONS[[0, *(MIXED + 1)]], CLASS), "position embedding"),
        (joined(PATCHES, np.zeros((10, 32)), CLASS), "position embedding missing"),
        (joined(PATCHES, POSITIONS[[0, *range(9)]], CLASS), "position offset"),
        (joined(PATCHES, POSITIONS, 0 * CLASS), "class token"),
        (
            np.concatenate([PATCHES, np.broadcast_to(CLASS, (2, 1, 32))], 1) + POSITIONS,
            "class token",
        ),
    ],
    ids=["columns", "mixed", "positions mixed", "no positions", "one off", "class token", "last"],
)
def test_patches(wrong: np.ndarray, named: str, pair: Pair) -> None:
    assert cause(embedded(pair, wrong)) == named


def test_another_vector_in_each_image_is_no_class_token(pair: Pair) -> None:
    wrong = joined(PATCHES, POSITIONS, CLASS)
    wrong[:, 0] = RANDOM.normal(size=(2, 32))
    assert cause(embedded(pair, wrong)) is None


@pytest.mark.parametrize(("right", "wrong"), [("GELU", "GELU by tanh"), ("tanh", "no function")])
def test_functions_that_are_modules_on_neither_side(right: str, wrong: str, pair: Pair) -> None:
    def entries(name: str) -> list[tuple[str, str, str, np.ndarray]]:
        return [("fc", "output", "", TOKENS), ("head", "input", "x", FUNCTIONS[name](TOKENS))]

    result = pair(entries(right), entries(wrong))
    assert cause(result) == "activation function"
    assert f"Applying {wrong} instead of {right}" in result.cause


def test_the_soft_cap_of_logits(pair: Pair) -> None:
    def entries(logits: np.ndarray) -> list[tuple[str, str, str, np.ndarray]]:
        return [("lm_head", "output", "", 40 * TOKENS), ("", "output", "logits", logits)]

    capped = 30 * np.tanh(40 * TOKENS / 30)
    result = pair(entries(capped), entries(40 * TOKENS), final_logit_softcapping=30.0)
    assert cause(result) == "score cap"


@pytest.mark.parametrize("name", CUTS)
def test_every_cut_takes_each_channel_once(name: str) -> None:
    heads, groups, d = 4, 4 if "channel" in name else 2, 8
    fused = np.arange((heads + 2 * groups) * d, dtype=float)[None, None]
    found = cut(fused, name, heads, groups, d)
    assert found is not None
    assert [part.shape[-1] for part in found] == [heads * d, groups * d, groups * d]
    assert sorted(np.concatenate(found, axis=-1).ravel()) == list(fused.ravel())
