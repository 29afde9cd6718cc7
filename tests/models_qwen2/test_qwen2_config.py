"""Configurations: both spellings of transformers, the published sizes, and what is refused."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from firstdiff.models.qwen2 import PUBLISHED, TINY, Qwen2Config, RopeScaling
from firstdiff.models.qwen2.names import names
from firstdiff.models.qwen2.rope import inverse_frequencies
from firstdiff.traces.errors import SubjectError

PARAMETERS = {  # as the model cards say, in billions
    "0.5B": 0.49,
    "1.5B": 1.54,
    "3B": 3.09,
    "7B": 7.62,
    "14B": 14.8,  # the card rounds to 14.7
    "32B": 32.8,  # the card rounds to 32.5
    "72B": 72.7,
}


@pytest.mark.parametrize("size", PUBLISHED)
def test_published_sizes_have_the_published_number_of_parameters(size: str) -> None:
    total = sum(int(np.prod(name.shape)) for name in names(PUBLISHED[size]))
    assert total / 1e9 == pytest.approx(PARAMETERS[size], rel=0.01)


@pytest.mark.parametrize("size", PUBLISHED)
def test_names_and_shapes_are_those_of_hugging_face(size: str) -> None:
    config = dataclasses.replace(PUBLISHED[size], num_hidden_layers=2)
    with torch.device("meta"):
        model = transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**config.to_hf()))
    right = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    if config.tie_word_embeddings:
        del right["lm_head.weight"]
    assert {name.hf: name.shape for name in names(config)} == right


SCALINGS = [
    None,
    RopeScaling("linear", 2.0),
    RopeScaling("llama3", 8.0, 8192),
    RopeScaling("yarn", 4.0, 32768),
    RopeScaling("yarn", 4.0, 32768, attention_factor=1.2, beta_fast=16.0, truncate=False),
]


@pytest.mark.parametrize("scaling", SCALINGS)
def test_a_configuration_survives_both_generations_of_transformers(
    scaling: RopeScaling | None, tmp_path: Path
) -> None:
    config = dataclasses.replace(PUBLISHED["7B"], rope_scaling=scaling)
    assert Qwen2Config.from_hf(config.to_hf()) == config  # rope_theta, rope_scaling: 4
    transformers.Qwen2Config(**config.to_hf()).save_pretrained(tmp_path)  # rope_parameters: 5
    assert '"rope_parameters"' in (tmp_path / "config.json").read_text()
    assert Qwen2Config.from_hf(tmp_path) == config


@pytest.mark.parametrize("scaling", SCALINGS)
def test_rotary_frequencies_are_those_of_hugging_face(scaling: RopeScaling | None) -> None:
    config = dataclasses.replace(PUBLISHED["7B"], rope_scaling=scaling)
    rotary = transformers.models.qwen2.modeling_qwen2.Qwen2RotaryEmbedding(
        transformers.Qwen2Config(**config.to_hf())
    )
    frequencies, factor = inverse_frequencies(config)
    assert frequencies.dtype == np.float32
    assert factor == pytest.approx(rotary.attention_scaling, rel=1e-12)
    np.testing.assert_array_max_ulp(frequencies, rotary.inv_freq.numpy(), maxulp=4)


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"model_type": "llama"}, "model_type is 'llama'"),
    ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
    (
        {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 1},
        "use_sliding_window",
    ),
    ({"layer_types": ["full_attention", "sliding_attention"]}, "use_sliding_window"),
    ({"rope_scaling": {"rope_type": "longrope", "factor": 2.0}}, "rope_type is 'longrope'"),
    ({"rope_scaling": {"type": "yarn", "factor": 2.0}}, "needs original_max_position_embeddings"),
    ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor 0.5"),
    ({"num_key_value_heads": 3}, "no multiple"),
    ({"vocab_size": None}, "vocab_size is missing"),
]


@pytest.mark.parametrize(("change", "message"), REFUSED)
def test_what_the_ports_cannot_compute_is_refused(change: dict[str, Any], message: str) -> None:
    hf = TINY.to_hf() | change
    hf = {name: value for name, value in hf.items() if value is not None}
    with pytest.raises(SubjectError, match=message):
        Qwen2Config.from_hf(hf)


def test_a_window_that_no_layer_uses_is_no_window() -> None:
    hf = TINY.to_hf() | {"use_sliding_window": True, "max_window_layers": 2}
    assert Qwen2Config.from_hf(hf) == TINY


def test_defaults_are_those_of_transformers() -> None:
    hf = {
        k: v
        for k, v in TINY.to_hf().items()
        if k not in ("num_key_value_heads", "rope_theta", "head_dim")
    }
    config = Qwen2Config.from_hf(hf)
    assert (config.num_key_value_heads, config.rope_theta, config.head_dim) == (4, 10000.0, 16)


def test_a_file_that_is_no_configuration_is_named(tmp_path: Path) -> None:
    with pytest.raises(SubjectError, match=r"config\.json: no such file"):
        Qwen2Config.from_hf(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(SubjectError, match="not JSON"):
        Qwen2Config.from_hf(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(SubjectError, match="holds a list"):
        Qwen2Config.from_hf(tmp_path)


@pytest.mark.parametrize(
    ("program", "loaded"),
    [
        ("import firstdiff.models", "False False"),
        (
            "from firstdiff.models import qwen2, write_checkpoint, discriminating_inputs",
            "False False",
        ),
        ("from firstdiff.models import FAULTS", "True False"),
    ],
)
def test_a_framework_is_imported_only_when_it_is_needed(program: str, loaded: str) -> None:
    check = f"{program}\nimport sys; print('jax' in sys.modules, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == loaded
