"""What is advised when little of the reference was compared."""

from __future__ import annotations

import pytest

from firstdiff.diff.coverage import coverage_notes
from firstdiff.diff.result import Counts
from firstdiff.traces import Header


@pytest.mark.parametrize(
    ("pairs", "port", "advice"),
    [
        (10, Header("jax", front_end="linen"), ["--map FILE.toml"]),
        (10, Header("jax", front_end="functions"), ["firstdiff.tap('layers.0.mlp', x)"]),
        (10, Header("jax", front_end="linen", selection={"globs": ["layers_0*"]}), []),
        (10, Header("jax", front_end="linen", selection={"globs": []}), ["--map FILE.toml"]),
        (60, Header("jax", front_end="linen"), []),
    ],
    ids=["modules", "functions", "selected on purpose", "nothing selected", "enough"],
)
def test_advice(pairs: int, port: Header, advice: list[str]) -> None:
    counts = Counts(
        pairs, agree=pairs, diverge=0, healed=0, repeated=0, missing=100 - pairs, extra=0
    )
    found = coverage_notes(counts, port)
    assert len(found) == len(advice)
    assert all(words in note for words, note in zip(advice, found, strict=True))
