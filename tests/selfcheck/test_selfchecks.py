"""Each self-check finds the class of mistakes that it is there for, and a right model passes all that apply."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import firstdiff
from firstdiff.models.checkpoint import discriminating_inputs
from firstdiff.models.subject import Subject
from firstdiff.selfchecking import SelfCheck
from firstdiff.traces.errors import OptionError

PADDED = ("left padding against none", "right padding against none")


class Causal(torch.nn.Module):
    """Averages the tokens seen so far, unless told to do it wrongly."""

    def __init__(self, wrong: str = "") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = torch.nn.Embedding(320, 8)
        self.drop = torch.nn.Dropout(0.5 if wrong == "random" else 0.0)
        self.head = torch.nn.Linear(8, 8)
        self.wrong = wrong

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        hidden = self.drop(self.embed(input_ids))
        if self.wrong != "padding seen":
            hidden = hidden * attention_mask[..., None]
        if self.wrong == "rows mixed":
            hidden = hidden - hidden.mean(dim=0, keepdim=True)
        if self.wrong == "statistics over padding":
            hidden = hidden / hidden.shape[1]
        return self.head(hidden.cumsum(dim=1))


def checked(model: Any, *only: str) -> SelfCheck:
    return firstdiff.selfcheck(model, inputs=discriminating_inputs(tokens=20), only=only)


def outcomes(result: SelfCheck) -> dict[str, str]:
    return {row.name: row.outcome for row in result.rows}


def test_a_right_model_passes_what_applies() -> None:
    result = checked(Causal().eval())
    assert outcomes(result) == {
        "run twice": "agrees",
        "jit against eager": "not applicable",
        "batch against single rows": "agrees",
        "left padding against none": "agrees",
        "right padding against none": "agrees",
        "prefill against decoding": "not applicable",
        "no cache against prefill": "not applicable",
        "growing cache against static": "not applicable",
        "float32 against bfloat16": "not applicable",
        "scan against plain": "not applicable",
        "sharded against plain": "not applicable",
    }
    assert result.exit_code == 0
    reasons = {row.name: row.detail for row in result.rows}
    assert reasons["jit against eager"] == "PyTorch runs eagerly"
    assert reasons["prefill against decoding"] == "the model takes no past_key_values"
    assert "every value equal" in reasons["run twice"]


@pytest.mark.parametrize(
    ("wrong", "check", "place"),
    [
        ("random", "run twice", "drop"),
        ("rows mixed", "batch against single rows", "head"),
        ("padding seen", "left padding against none", "head"),
        ("statistics over padding", "right padding against none", "head"),
    ],
)
def test_a_wrong_model_is_caught_with_its_place(wrong: str, check: str, place: str) -> None:
    model = Causal(wrong)
    result = checked(model if wrong == "random" else model.eval(), check)
    assert outcomes(result) == {check: "diverges"}
    assert result.exit_code == 1
    assert place in result.rows[0].detail


class Forgetful(transformers.Qwen2ForCausalLM):
    """Counts positions anew with every step of decoding."""

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        past_key_values: Any = None,
        use_cache: bool | None = None,
    ) -> Any:
        positions = torch.arange(input_ids.shape[1])[None]
        return super().forward(
            input_ids=input_ids, attention_mask=attention_mask, position_ids=positions,
            past_key_values=past_key_values, use_cache=use_cache,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("model_class", "outcome"),
    [(transformers.Qwen2ForCausalLM, "agrees"), (Forgetful, "diverges")],
)
def test_decoding_with_a_cache(model_class: Any, outcome: str, checkpoint: Path) -> None:
    model = model_class.from_pretrained(checkpoint, attn_implementation="eager").eval()
    result = checked(Subject(model=model, name="qwen2"), "prefill against decoding")
    assert outcomes(result) == {"prefill against decoding": outcome}
    row = result.rows[0]
    assert row.diff is not None
    cache = [r for r in row.diff.rows if r.key.leaf.startswith("past_key_values")]
    assert cache  # its contents are compared too
    if outcome == "diverges":
        assert "position_ids" in row.detail


@pytest.mark.parametrize(("fault", "outcome"), [(None, "agrees"), ("padding_ignored", "diverges")])
def test_a_jax_port_with_and_without_padding(
    fault: str | None, outcome: str, checkpoint: Path
) -> None:
    from firstdiff.models import qwen2

    port = qwen2.subject("linen", checkpoint, fault=fault)
    result = firstdiff.selfcheck(
        port, inputs=discriminating_inputs(), only=PADDED[:1], mode="eager"
    )
    assert outcomes(result) == {PADDED[0]: outcome}
    if outcome == "diverges":  # positions are those of the real tokens, so the mask alone is wrong
        assert "layers_0.self_attn" in result.rows[0].detail


def test_a_call_of_any_keyword_that_takes_no_positions(tmp_path: Path) -> None:
    (tmp_path / "port.py").write_text(ANY_KEYWORD)
    result = firstdiff.selfcheck(
        f"{tmp_path}/port.py:build", inputs=discriminating_inputs(tokens=20), only=PADDED
    )
    assert outcomes(result) == dict.fromkeys(PADDED, "agrees")


ANY_KEYWORD = """
import jax.numpy as jnp
import numpy as np
import firstdiff

def embedded(weight, input_ids, attention_mask):
    return firstdiff.tap("out", weight[input_ids] * attention_mask[..., None])

def build():
    weight = jnp.asarray(np.random.default_rng(0).normal(size=(320, 6)), "float32")
    return firstdiff.Subject(model=weight, call=lambda weight, **inputs: embedded(weight, **inputs))
"""
FACTORY = """
import jax.numpy as jnp
import numpy as np
import firstdiff

def build(dtype="float32", scan=False):
    weight = jnp.asarray(np.arange(12.0).reshape(4, 3) / 7 - 0.5, dtype)
    factor = 2.1 if scan else 2.0
    def model(weight, x):
        return firstdiff.tap("out", firstdiff.tap("hidden", x.astype(weight.dtype) @ weight.T) * factor)
    return firstdiff.Subject(model=weight, call=model)
"""


def test_variants_and_dtypes_that_the_factory_offers(tmp_path: Path) -> None:
    (tmp_path / "port.py").write_text(FACTORY)
    np.savez(tmp_path / "x.npz", x=np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32))
    result = firstdiff.selfcheck(
        f"{tmp_path}/port.py:build",
        inputs=tmp_path / "x.npz",
    )
    assert outcomes(result) == {
        "run twice": "agrees",
        "jit against eager": "agrees",
        "batch against single rows": "agrees",
        "left padding against none": "not applicable",
        "right padding against none": "not applicable",
        "prefill against decoding": "not applicable",
        "no cache against prefill": "not applicable",
        "growing cache against static": "not applicable",
        "float32 against bfloat16": "agrees",
        "scan against plain": "diverges",
        "sharded against plain": "not applicable",
    }


def test_a_check_that_does_not_exist_is_named() -> None:
    with pytest.raises(OptionError, match="--only run thrice: no such check; there are run twice"):
        checked(Causal().eval(), "run thrice")


def test_the_command_line_prints_a_row_a_check(tmp_path: Path, firstdiff_cli: Any) -> None:
    (tmp_path / "port.py").write_text(FACTORY)
    np.savez(tmp_path / "x.npz", x=np.ones((2, 3), np.float32))
    arguments = ("selfcheck", f"{tmp_path}/port.py:build", "--inputs", tmp_path / "x.npz")
    done = firstdiff_cli(*arguments, "--only", "run twice")
    assert done.code == 0, done.err
    assert done.out.split()[:3] == ["run", "twice", "agrees"]
    done = firstdiff_cli(*arguments, "--only", "scan against plain", "--json")
    assert done.code == 1
    assert '"outcome": "diverges"' in done.out
