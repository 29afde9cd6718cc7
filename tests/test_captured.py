"""What `firstdiff capture` prints of a finished capture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from firstdiff.captured import Capture
from firstdiff.traces import Header


def printed(**header: Any) -> list[str]:
    made = Header(framework="jax", dtype="float32", mode="jit", subject="net", **header)
    return Capture(Path("a.h5"), made, activations=7, nbytes=1_200_000, seconds=0.0).lines()


@pytest.mark.parametrize(
    ("check", "words"),
    [
        ({"checked": False}, []),
        ({"checked": True, "bitwise": True, "max_abs": 0.0}, ["tracing did not change the output"]),
        (
            {"checked": True, "bitwise": False, "max_abs": 9.77e-7},
            ["tracing changed the output by at most 9.8e-07"],
        ),
        ({"checked": True, "bitwise": False, "max_abs": 0.5, "deterministic": False}, []),
    ],
    ids=["not looked at", "the same bits", "other bits", "never the same bits"],
)
def test_it_says_whether_tracing_changed_the_output(
    check: dict[str, Any], words: list[str]
) -> None:
    assert printed(output_check=check) == [
        "a.h5  net · jax float32 · jit · 7 activations · 1.2 MB",
        *words,
    ]


def test_modules_that_never_ran_and_notes_follow() -> None:
    silent = tuple(f"layers.{n}" for n in range(7))
    assert printed(never_fired=silent, notes=("the cache was not kept",))[1:] == [
        "7 modules never ran: layers.0, layers.1, layers.2, layers.3, layers.4, ...",
        "note: the cache was not kept",
    ]
