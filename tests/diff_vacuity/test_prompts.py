"""`firstdiff prompt` makes inputs of which nothing has to be warned, and says what it cannot afford."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import firstdiff
from firstdiff.diff.vacuity import vacuities
from firstdiff.models.hub import load_hf
from firstdiff.models.subject import Subject
from firstdiff.recording import record
from firstdiff.traces import open_trace
from firstdiff.traces.errors import OptionError


def test_the_prompt_of_a_checkpoint_leaves_nothing_to_warn_of(
    checkpoint: Path, tmp_path: Path
) -> None:
    made = firstdiff.prompt(f"hf:{checkpoint}", tmp_path / "inputs.npz")
    ids, mask = (made.inputs[name].value for name in ("input_ids", "attention_mask"))
    assert ids.shape == (2, 48)
    assert mask.sum(axis=1).tolist() == [46, 39]
    assert not mask[:, 0].any()
    trace = record(f"hf:{checkpoint}", tmp_path / "r.h5", inputs=made.path, floor=(), verify=False)
    with open_trace(trace.path) as found:
        assert vacuities(found) == ()


@pytest.mark.parametrize(
    ("config", "longest", "length", "note"),
    [
        ({"sliding_window": 64}, 4096, 89, None),
        ({"sliding_window": 4096}, 4096, 4096, "sliding window of 4096: --longest 4128"),
        ({"rope_scaling": {"rope_type": "dynamic"}, "max_position_embeddings": 60}, 4096, 85, None),
        ({}, 4096, 48, None),
    ],
)
def test_the_length_follows_the_configuration(
    config: dict[str, Any], longest: int, length: int, note: str | None
) -> None:
    subject = Subject(model={}, call=lambda _m: None, config={"vocab_size": 100, **config})
    made = firstdiff.prompt(subject, longest=longest)
    assert made.inputs["input_ids"].value.shape == (2, length)
    if note is None:
        assert made.notes == ()
    else:
        assert note in made.notes[0]


def test_a_transformers_model_gets_the_length_too(checkpoint: Path) -> None:
    subject = dataclasses.replace(load_hf(f"hf:{checkpoint}"), config={"sliding_window": 64})
    assert firstdiff.prompt(subject).inputs["input_ids"].value.shape == (2, 89)


def test_text_is_real_and_the_two_rows_differ(checkpoint: Path) -> None:
    made = firstdiff.prompt(f"hf:{checkpoint}", text="The quick brown fox jumps over the lazy dog.")
    ids, mask = (made.inputs[name].value for name in ("input_ids", "attention_mask"))
    from firstdiff.models.hub import encode

    spoken = set(
        encode(f"hf:{checkpoint}", ["The quick brown fox jumps over the lazy dog."])["input_ids"][0]
    )
    assert set(ids[mask > 0]) <= spoken
    assert not np.array_equal(ids[0, -30:], ids[1, -30:])
    assert made.notes == ("the text has 44 tokens and is repeated",)


def test_what_cannot_be_made_is_said(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="vocab_size"):
        firstdiff.prompt(Subject(model={}, call=lambda _m: None, name="x.py:build"))
    with pytest.raises(OptionError, match="has no tokenizer"):
        firstdiff.prompt(
            Subject(model={}, config={"vocab_size": 9}, name="x.py:build"), text="a b c"
        )
    taken = tmp_path / "inputs.npz"
    taken.touch()
    with pytest.raises(OptionError, match="exists already"):
        firstdiff.prompt(f"hf:{checkpoint}", taken)
    with pytest.raises(OptionError, match="one token"):
        firstdiff.prompt(f"hf:{checkpoint}", tokens=1)
