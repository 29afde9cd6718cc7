"""The error by token, in words."""

from __future__ import annotations

import numpy as np
import pytest

from firstdiff.diff.layout import candidates, identity
from firstdiff.diff.measure import Side
from firstdiff.diff.pattern import Pattern, find_pattern

BATCH, TOKENS = 3, 16
EVEN = "all by about the same amount"


def pattern(
    wrong: np.ndarray, padding: np.ndarray | None = None, growth: np.ndarray | None = None
) -> Pattern | None:
    """The pattern of an activation that is wrong at bool[batch, tokens] ``wrong``."""
    value = np.random.default_rng(0).standard_normal((BATCH, TOKENS, 8)).astype(np.float32)
    amount = 0.3 * wrong * (1 if growth is None else growth)
    port = value * (1 + amount[..., None].astype(np.float32))
    sides = Side(value, "float32"), Side(port, "float32")
    return find_pattern(*sides, identity(value.shape), (BATCH, TOKENS), padding, 1e-4)


def where(rows: object = slice(None), tokens: object = slice(None)) -> np.ndarray:
    wrong = np.zeros((BATCH, TOKENS), bool)
    wrong[rows, tokens] = True
    return wrong


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (where(), f"every position is wrong, {EVEN}"),
        (where(tokens=slice(1, None)), f"position 0 is exact, every later position is wrong, {EVEN}"),
        (where(tokens=-1), "only the last position is wrong"),
        (where(tokens=slice(0, -1)), "only the last position agrees"),
        (where(tokens=slice(4, None)), "positions 0 to 3 agree, every one from 4 on is wrong"),
        (where(rows=1), "only batch row 1 of 3 is wrong"),
        (where(rows=slice(1, None)), "only batch rows 1, 2 of 3 are wrong"),
        (where(tokens=[3, 9]), "6 of 48 positions are wrong"),
    ],
)  # fmt: skip
def test_words(wrong: np.ndarray, words: str) -> None:
    found = pattern(wrong)
    assert found is not None
    assert found.words == words
    assert (found.wrong, found.tokens) == (wrong.sum(), wrong.size)


def test_growth_along_the_sequence() -> None:
    found = pattern(where(tokens=slice(1, None)), growth=np.linspace(0.01, 1, TOKENS))
    assert found is not None
    assert (
        found.words == "position 0 is exact, every later position is wrong, more so the later it is"
    )


def test_positions_count_from_the_first_real_token() -> None:
    padding = np.ones((BATCH, TOKENS), bool)
    padding[1, :5] = False
    wrong = where(tokens=slice(1, None))
    wrong[1, 5] = False
    found = pattern(wrong, padding)
    assert found is not None
    assert found.words.startswith("the first real token is exact, every later one is wrong")
    assert found.tokens == padding.sum()


def test_rows_with_padding() -> None:
    padding = np.ones((BATCH, TOKENS), bool)
    padding[1, :5] = False
    found = pattern(where(rows=1), padding)
    assert found is not None
    assert found.words == "only batch rows with padding are wrong"


def test_error_by_position_and_row() -> None:
    found = pattern(where(rows=2, tokens=7))
    assert found is not None
    assert [position for position, error in enumerate(found.by_position) if error > 0] == [7]
    assert [row for row, error in enumerate(found.by_row) if error > 0] == [2]


def test_other_layouts() -> None:
    value = np.random.default_rng(0).standard_normal((BATCH, 4, TOKENS, 8)).astype(np.float32)
    port = value.copy()
    port[:, :, 1:] *= 1.5
    moved = np.ascontiguousarray(port.transpose(0, 2, 1, 3))
    layout = next(
        c for c in candidates(value.shape, moved.shape) if c.words == "transposed (0,2,1,3)"
    )
    found = find_pattern(
        Side(value, "float32"), Side(moved, "float32"), layout, (BATCH, TOKENS), None, 1e-4
    )
    assert found is not None
    assert found.words.startswith("position 0 is exact, every later position is wrong")
    flat = Side(value[:, 0].reshape(-1, 8), "float32"), Side(port[:, 0].reshape(-1, 8), "float32")
    again = find_pattern(*flat, identity((BATCH * TOKENS, 8)), (BATCH, TOKENS), None, 1e-4)
    assert again is not None
    assert again.words == found.words


def test_a_tensor_without_tokens_has_no_pattern() -> None:
    side = Side(np.ones((5, 7), np.float32), "float32")
    assert find_pattern(side, side, identity((5, 7)), (BATCH, TOKENS), None, 1e-4) is None


def test_one_token_shows_nothing() -> None:
    value = np.ones((2, 1, 8), np.float32)
    found = find_pattern(
        Side(value, "float32"), Side(2 * value, "float32"), identity((2, 1, 8)), (2, 1), None, 1e-4
    )
    assert found is not None
    assert found.words == "one token only: a fault that depends on position cannot show"
