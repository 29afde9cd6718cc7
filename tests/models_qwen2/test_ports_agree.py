"""Every port against Hugging Face's own model, never against a re-implementation.

The bar is a ratio to measured rounding: a port's error against the float64 golden run, over the error of Hugging
Face's own run in that dtype. Two right implementations stay within a small factor of each other.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from firstdiff.models.checkpoint import discriminating_inputs
from firstdiff.models.qwen2 import PORTS, TINY, RopeScaling, subject
from firstdiff.models.qwen2.ports import UNSTACKED
from firstdiff.traces.errors import OptionError

RATIO = 2.0
UNTIED = dataclasses.replace(TINY, tie_word_embeddings=False)
VARIANTS = [(port, scan) for port in PORTS for scan in (False, True)]
Checkpoint = Callable[..., Path]


def jitted(port: str, folder: Path, inputs: dict[str, Any], **options: Any) -> jax.Array:
    made = subject(port, folder, **options)
    return jax.jit(made.call)(made.model, **inputs).logits


@pytest.mark.parametrize(("port", "scan"), VARIANTS)
def test_float32_logits_are_those_of_the_reference(
    port: str, scan: bool, tiny: Path, judge: Any
) -> None:
    inputs = discriminating_inputs()
    assert judge.ratio(jitted(port, tiny, inputs, scan=scan), tiny, inputs) < RATIO


@pytest.mark.parametrize(("port", "scan"), VARIANTS)
def test_bfloat16_logits_are_as_near_to_the_golden_run_as_the_reference(
    port: str, scan: bool, checkpoint: Checkpoint, judge: Any
) -> None:
    folder, inputs = checkpoint(dtype="bfloat16"), discriminating_inputs()
    logits = jitted(port, folder, inputs, scan=scan, dtype=None)
    assert logits.dtype == "bfloat16"
    assert judge.ratio(logits, folder, inputs, "bfloat16") < RATIO


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_keras_port_agrees(dtype: str, checkpoint: Checkpoint, judge: Any) -> None:
    folder, inputs = checkpoint(dtype=dtype), discriminating_inputs()
    made = subject("keras", folder, dtype=None)
    logits = made.call(made.model, **inputs).logits
    assert logits.dtype == dtype
    assert judge.ratio(logits, folder, inputs, dtype) < RATIO
    with pytest.raises(OptionError, match="its layers are neither stacked nor recomputed"):
        subject("keras", folder, scan=True)


@pytest.mark.parametrize("port", [*PORTS, *UNSTACKED])
def test_an_untied_head_and_eager_calls_agree_as_well(
    port: str, checkpoint: Checkpoint, judge: Any
) -> None:
    folder, inputs = checkpoint(seed=1, config=UNTIED), discriminating_inputs()
    made = subject(port, folder)
    assert judge.ratio(made.call(made.model, **inputs).logits, folder, inputs) < RATIO


@pytest.mark.parametrize("port", PORTS)
def test_recomputed_layers_agree(port: str, tiny: Path, judge: Any) -> None:
    inputs = discriminating_inputs()
    for scan in (False, True):
        logits = jitted(port, tiny, inputs, scan=scan, remat=True)
        assert judge.ratio(logits, tiny, inputs) < RATIO


@pytest.mark.parametrize("port", PORTS)
def test_given_positions_and_no_mask(port: str, tiny: Path, judge: Any) -> None:
    ids = discriminating_inputs(padding=(0, 0))["input_ids"]
    spread = np.cumsum(np.random.default_rng(0).integers(1, 9, ids.shape), axis=1)
    logits = jitted(port, tiny, {"input_ids": ids, "position_ids": spread})
    assert judge.ratio(logits, tiny, {"input_ids": ids, "position_ids": spread}) < RATIO
    unlike = judge.relative_l2(
        logits, judge.reference(tiny, {"input_ids": ids}).logits, {"input_ids": ids}
    )
    assert unlike > 0.01


@pytest.mark.parametrize("port", PORTS)
def test_one_position_row_serves_the_whole_batch(port: str, tiny: Path, judge: Any) -> None:
    inputs = discriminating_inputs()
    logits = jitted(port, tiny, inputs | {"position_ids": np.arange(48)[None]})
    assert judge.ratio(logits, tiny, inputs) < RATIO


@pytest.mark.parametrize("scan", [False, True])
def test_linen_agrees_on_ten_seeds_with_unequal_padding(
    scan: bool, tiny: Path, checkpoint: Checkpoint, judge: Any
) -> None:
    compiled = jax.jit(subject("linen", tiny, scan=scan).call)  # once: only the parameters differ
    for seed in range(10):
        folder = checkpoint(seed=seed)
        inputs = discriminating_inputs(seed=seed, padding=(seed % 5, 11))
        logits = compiled(subject("linen", folder, scan=scan).model, **inputs).logits
        assert judge.ratio(logits, folder, inputs) < RATIO


SCALINGS = {
    "linear": RopeScaling("linear", 3.0),
    "llama3": RopeScaling("llama3", 8.0, original_max_position_embeddings=64),
    "yarn": RopeScaling("yarn", 4.0, original_max_position_embeddings=64),
    "yarn with mscale": RopeScaling(
        "yarn", 4.0, 64, mscale=1.0, mscale_all_dim=0.5, truncate=False
    ),
}


@pytest.mark.parametrize("name", SCALINGS)
def test_stretched_rotary_frequencies(name: str, checkpoint: Checkpoint, judge: Any) -> None:
    config = dataclasses.replace(TINY, rope_scaling=SCALINGS[name], max_position_embeddings=256)
    folder, inputs = checkpoint(config=config), discriminating_inputs()
    logits = jitted("linen", folder, inputs)
    assert judge.ratio(logits, folder, inputs) < RATIO
    plain = checkpoint(config=dataclasses.replace(TINY, max_position_embeddings=256))
    assert judge.relative_l2(logits, judge.reference(plain, inputs).logits, inputs) > 0.01


def test_hidden_states_of_linen_are_those_of_the_reference(tiny: Path, judge: Any) -> None:
    inputs = discriminating_inputs()
    made = subject("linen", tiny)
    assert made.module is not None
    _, seen = made.module.apply({"params": made.model}, **inputs, capture_intermediates=True)
    seen = seen["intermediates"]
    right = judge.reference(tiny, inputs).hidden_states
    names = [
        "embed_tokens",
        "layers_0",
        "norm",
    ]  # Hugging Face's last hidden state is the normed one
    for name, reference in zip(names, right, strict=True):
        assert judge.relative_l2(seen[name]["__call__"][0], reference, inputs) < 1e-5


def test_linen_calls_every_module_that_the_reference_calls(tiny: Path) -> None:
    made = subject("linen", tiny)
    assert made.module is not None
    _, seen = made.module.apply(
        {"params": made.model}, **discriminating_inputs(), capture_intermediates=True
    )
    layer = seen["intermediates"]["layers_1"]
    assert {"q_proj", "k_proj", "v_proj", "o_proj"} < layer["self_attn"].keys()
    assert {"gate_proj", "up_proj", "down_proj", "act_fn"} < layer["mlp"].keys()
    assert {"input_layernorm", "post_attention_layernorm"} < layer.keys()
    assert {"rotary_emb", "embed_tokens", "norm"} < seen["intermediates"].keys()
