"""What inputs and weights cannot reveal is said before the verdict, and nothing is said of those that can."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from firstdiff.diff import diff
from firstdiff.diff.vacuity import vacuities
from firstdiff.models.checkpoint import discriminating_inputs
from firstdiff.recording import record
from firstdiff.traces import open_trace


def kinds(path: Path) -> set[str]:
    with open_trace(path) as trace:
        return {found.kind for found in vacuities(trace)}


def recorded(subject: Any, path: Path, ids: np.ndarray, mask: np.ndarray | None = None) -> Path:
    inputs = {"input_ids": ids} | ({} if mask is None else {"attention_mask": mask})
    return record(subject, path, inputs=inputs, floor=(), verify=False, force=True).path


@pytest.fixture(scope="module")
def subject(checkpoint: Path) -> Any:
    from firstdiff.models.hub import load_hf

    return load_hf(f"hf:{checkpoint}")


def ids(rows: int, tokens: int) -> np.ndarray:
    return np.random.default_rng(1).integers(1, 300, (rows, tokens))


def test_discriminating_inputs_and_weights_raise_no_warning(reference: Path) -> None:
    assert kinds(reference) == set()


def test_one_token_names_the_command_that_helps(subject: Any, tmp_path: Path) -> None:
    path = recorded(subject, tmp_path / "r.h5", ids(1, 1))
    with open_trace(path) as trace:
        found = {v.kind: v.sentence for v in vacuities(trace)}
    assert set(found) == {"one token", "one row"}
    assert "rotary embedding" in found["one token"]
    assert (
        f"2 rows of 48 tokens: firstdiff prompt {subject.name} -o inputs.npz" in found["one token"]
    )


@pytest.mark.parametrize(
    ("padding", "expected"),
    [
        ((0, 0), {"no padding"}),
        ((5, 5), {"equal padding"}),
        ((5, 0), set()),
        ((5,), {"one row"}),
        ((0,), {"one row", "no padding"}),
    ],
)
def test_rows_and_padding(
    padding: tuple[int, ...], expected: set[str], subject: Any, tmp_path: Path
) -> None:
    given = discriminating_inputs(padding=padding)
    path = recorded(subject, tmp_path / "r.h5", given["input_ids"], given["attention_mask"])
    assert kinds(path) == expected


def test_one_real_token_among_padding_is_one_token(subject: Any, tmp_path: Path) -> None:
    mask = np.zeros((2, 8), np.int64)
    mask[:, -1] = 1
    assert "one token" in kinds(recorded(subject, tmp_path / "r.h5", ids(2, 8), mask))


def test_equal_tokens(subject: Any, tmp_path: Path) -> None:
    path = recorded(subject, tmp_path / "r.h5", np.full((2, 16), 7))
    assert "equal tokens" in kinds(path)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"sliding_window": 64}, {"sliding window"}),
        ({"sliding_window": 32}, set()),
        ({"sliding_window": 64, "use_sliding_window": False}, set()),
        ({"sliding_window": 64, "layer_types": ["full_attention"]}, set()),
        ({"text_config": {"sliding_window": 64}}, {"sliding window"}),
        (
            {"rope_parameters": {"rope_type": "dynamic"}, "max_position_embeddings": 64},
            {"rope scaling"},
        ),
        (
            {"rope_scaling": {"type": "longrope"}, "original_max_position_embeddings": 4096},
            {"rope scaling"},
        ),
        ({"rope_parameters": {"rope_type": "dynamic"}, "max_position_embeddings": 40}, set()),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, set()),
    ],
)
def test_lengths_that_the_configuration_asks_for(
    config: dict[str, Any], expected: set[str], subject: Any, tmp_path: Path
) -> None:
    given = discriminating_inputs()
    pretending = dataclasses.replace(subject, config=config)
    path = recorded(pretending, tmp_path / "r.h5", given["input_ids"], given["attention_mask"])
    assert kinds(path) == expected


@pytest.fixture(scope="module")
def default_weights() -> transformers.PreTrainedModel:
    """As Hugging Face initialises them: zero biases, unit norms, std 0.02."""
    torch.manual_seed(0)
    config = transformers.Qwen2Config(
        vocab_size=320, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2,
    )  # fmt: skip
    config._attn_implementation = "eager"
    return transformers.Qwen2ForCausalLM(config).eval()


def test_default_initialisation_hides_three_classes_of_mistakes(
    default_weights: transformers.PreTrainedModel, tmp_path: Path
) -> None:
    given = discriminating_inputs()
    path = recorded(default_weights, tmp_path / "r.h5", given["input_ids"], given["attention_mask"])
    assert kinds(path) == {"zero biases", "unit norms", "uniform attention"}


def test_unit_norms_show_without_a_count_of_the_weights(
    default_weights: transformers.PreTrainedModel, reference: Path, tmp_path: Path
) -> None:
    from firstdiff.diff.uniformity import norms_are_neutral

    given = discriminating_inputs()
    path = recorded(default_weights, tmp_path / "r.h5", given["input_ids"], given["attention_mask"])
    with open_trace(path) as neutral, open_trace(reference) as trained:
        assert norms_are_neutral(neutral)
        assert not norms_are_neutral(trained)


def test_a_bidirectional_model_with_default_weights_has_uniform_attention(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=320, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=64,
    )  # fmt: skip
    config._attn_implementation = "eager"
    path = recorded(transformers.BertModel(config).eval(), tmp_path / "r.h5", ids(2, 32))
    assert "uniform attention" in kinds(path)


def test_the_report_warns_before_the_verdict(
    subject: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    from firstdiff.diff.report.text import print_diff

    monkeypatch.setenv("COLUMNS", "400")
    paths = [recorded(subject, tmp_path / f"{n}.h5", ids(1, 1)) for n in "ab"]
    result = diff(*paths)
    assert {w.kind for w in result.warnings} == {"one token", "one row"}
    assert '"kind": "one token"' in result.to_json()
    print_diff(result)
    text = capsys.readouterr().out
    assert text.index("Warning: one token") < text.index("The port agrees")
