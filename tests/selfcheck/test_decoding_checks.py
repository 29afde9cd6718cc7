"""Self-checks of a JAX port's cache, and the seeded classes of mistakes that the other checks are there for, in JAX."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import firstdiff
from firstdiff.decoding_checks import DECODED
from firstdiff.models import qwen2
from firstdiff.models.checkpoint import discriminating_inputs
from firstdiff.models.decoding_faults import DECODING_FAULTS
from firstdiff.models.subject import Subject
from firstdiff.selfchecking import SelfCheck

CACHE = ("prefill against decoding", "no cache against prefill")


def checked(port: Any, *only: str) -> SelfCheck:
    return firstdiff.selfcheck(
        port, inputs=discriminating_inputs(tokens=20), only=only, mode="eager"
    )


@pytest.mark.parametrize("scan", [False, True], ids=["loop", "scan"])
def test_a_right_cache_agrees_with_its_contents(checkpoint: Path, scan: bool) -> None:
    result = checked(qwen2.subject("linen", checkpoint, scan=scan), *CACHE)
    assert [row.outcome for row in result.rows] == ["agrees", "agrees"]
    found = result.rows[0].diff
    assert found is not None
    cache = {row.key.path: row for row in found.rows if row.key.path.startswith("cache.")}
    assert len([path for path in cache if path.endswith((".keys", ".values"))]) == 4
    assert {
        row.activation.shape for row in cache.values() if row.activation.dtype == "float32"
    } == {
        (2, 2, 20, 16)  # the places that are filled, not those to come
    }
    assert all(row.verdict.kind == "agrees" for row in cache.values())


@pytest.mark.parametrize("name", DECODING_FAULTS)
def test_a_wrong_cache_is_caught_without_a_reference(checkpoint: Path, name: str) -> None:
    fault = DECODING_FAULTS[name]
    result = checked(qwen2.subject("linen", checkpoint, fault=fault), *CACHE)
    assert [row.outcome for row in result.rows] == ["diverges", "agrees"]
    first = result.rows[0].diff and result.rows[0].diff.first
    assert first is not None
    if not name.startswith("mask"):  # masks of steps are shorter, and not compared
        assert first.name == fault.activation.replace("layers.0", "layers_0")


def test_a_cache_that_makes_the_prompt_wrong_is_caught(checkpoint: Path) -> None:
    from dataclasses import replace

    from firstdiff.models.qwen2 import ops

    def seen_beyond(input_ids: Any, attention_mask: Any, written: Any, dtype: str) -> Any:
        return ops.cached_mask(input_ids, attention_mask | 1, written + 99, dtype)

    fault = replace(DECODING_FAULTS["mask_one_short"], functions={"cached_mask": seen_beyond})
    result = checked(qwen2.subject("linen", checkpoint, fault=fault), CACHE[1])
    assert result.rows[0].outcome == "diverges"
    assert "attention_mask" in result.rows[0].detail


def test_rows_padded_on_the_right_cannot_be_decoded(checkpoint: Path) -> None:
    inputs = discriminating_inputs(tokens=20)
    mask = np.ones((2, 20), np.int64)
    mask[1, -2:] = 0
    result = firstdiff.selfcheck(
        qwen2.subject("linen", checkpoint),
        inputs={**inputs, "attention_mask": mask},
        only=CACHE[:1],
        mode="eager",
    )
    assert result.rows[0].outcome == "not applicable"
    assert result.rows[0].detail == "a row has padding among its last 8 tokens; pad on the left"


def test_a_torch_model_with_a_static_cache(checkpoint: Path) -> None:
    result = checked(f"hf:{checkpoint}", "growing cache against static")
    assert result.rows[0].outcome == "agrees", result.rows[0].detail


WRONG = {
    "run twice": "value * next(traced)",  # Python that runs while tracing only
    "jit against eager": "value * next(traced)",
    "batch against single rows": "value - value.mean(axis=0, keepdims=True)",
    "right padding against none": "value / value.shape[1]",
    "left padding against none": "jnp.cumsum(value + 1, axis=1)",
    "float32 against bfloat16": "value * jnp.cos(301 * jnp.arange(20, dtype=dtype)[:, None])",
    "sharded against plain": "value * (1.5 if sharded else 1.0)",
    "scan against plain": "value * (1.5 if scan else 1.0)",
}
FACTORY = """
import itertools
import jax.numpy as jnp
import numpy as np
import firstdiff

traced = itertools.count(1)

def build(dtype="float32", scan=False, sharded=False):
    weight = jnp.asarray(np.random.default_rng(0).normal(size=(320, 6)), dtype)
    def model(weight, input_ids, attention_mask):
        value = weight[input_ids] * attention_mask[..., None].astype(dtype)
        return firstdiff.tap("out", {wrong})
    return firstdiff.Subject(model=weight, call=model)
"""


@pytest.mark.parametrize("check", WRONG)
def test_each_class_of_mistakes_is_caught_in_jax(check: str, tmp_path: Path) -> None:
    for name, wrong in (("wrong", WRONG[check]), ("right", "value * 1.0")):
        (tmp_path / f"{name}_port.py").write_text(FACTORY.replace("{wrong}", wrong))
        result = firstdiff.selfcheck(
            f"{tmp_path}/{name}_port.py:build",
            inputs=discriminating_inputs(tokens=20),
            only=[check],
        )
        assert result.rows[0].outcome == ("diverges" if name == "wrong" else "agrees"), name


class SeesUnwritten(transformers.Qwen2ForCausalLM):
    """Looks at places of a static cache that are not written yet."""

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        past_key_values: Any = None,
        use_cache: bool | None = None,
    ) -> Any:
        if isinstance(past_key_values, transformers.StaticCache):
            tokens, places = input_ids.shape[1], 20 + DECODED
            written = int(past_key_values.get_seq_length())
            query, key = torch.arange(tokens)[:, None] + written, torch.arange(places)[None]
            hidden = (key > query) & (key < written + tokens)
            attention_mask = torch.where(hidden, -1e9, 0.0)[None, None]
        return super().forward(
            input_ids=input_ids, attention_mask=attention_mask, past_key_values=past_key_values,
            use_cache=use_cache,
        )  # fmt: skip


def test_places_of_a_static_cache_that_are_seen_too_early(checkpoint: Path) -> None:
    model = SeesUnwritten.from_pretrained(checkpoint, attn_implementation="eager").eval()
    port = Subject(model=model, name="qwen2")
    found = firstdiff.selfcheck(
        port,
        inputs={"input_ids": discriminating_inputs(tokens=20)["input_ids"]},
        only=["growing cache against static"],
    )
    assert found.rows[0].outcome == "diverges", found.rows[0].detail
    assert "layers.0.self_attn" in found.rows[0].detail


def test_attention_over_a_static_cache_is_compared(checkpoint: Path) -> None:
    result = checked(f"hf:{checkpoint}", "growing cache against static")
    found = result.rows[0].diff
    assert found is not None
    rows = {(r.name, r.key.leaf): r for r in found.rows if r.key.site == "output" and r.pair}
    assert rows["layers.0.self_attn", "1"].activation.shape == (2, 4, 20, 20)  # of 28 places
    assert ("", "past_key_values.0.keys") in rows
