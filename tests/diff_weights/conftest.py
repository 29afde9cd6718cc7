"""A small decoder's checkpoint, its linen port, and the audit of both after one change."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from firstdiff.diff.weights.audit import Audit, audit
from firstdiff.models.twins import parameters

HIDDEN, WIDE, VOCABULARY, KEYS, LAYERS = 32, 48, 96, 16, 3

Values = dict[str, np.ndarray]


@pytest.fixture(scope="session")
def checkpoint() -> Values:
    """Hugging Face names, float32, [out, in]; biases on q, k, v; a tied head."""
    random = np.random.default_rng(0)

    def draw(*shape: int) -> np.ndarray:
        return random.normal(0, 0.2, shape).astype(np.float32)

    def norm() -> np.ndarray:
        return 1 + draw(HIDDEN)

    values = {"model.embed_tokens.weight": draw(VOCABULARY, HIDDEN)}
    for layer in range(LAYERS):
        p = f"model.layers.{layer}."
        values[f"{p}input_layernorm.weight"] = norm()
        for name, rows in (("q", HIDDEN), ("k", KEYS), ("v", KEYS)):
            values[f"{p}self_attn.{name}_proj.weight"] = draw(rows, HIDDEN)
            values[f"{p}self_attn.{name}_proj.bias"] = draw(rows)
        values[f"{p}self_attn.o_proj.weight"] = draw(HIDDEN, HIDDEN)
        values[f"{p}post_attention_layernorm.weight"] = norm()
        values[f"{p}mlp.gate_proj.weight"] = draw(WIDE, HIDDEN)
        values[f"{p}mlp.up_proj.weight"] = draw(WIDE, HIDDEN)
        values[f"{p}mlp.down_proj.weight"] = draw(HIDDEN, WIDE)
    values["model.norm.weight"] = norm()
    return values


@pytest.fixture
def port(checkpoint: Values) -> Values:
    """The right linen port, to be changed."""
    values = {}
    for name, value in checkpoint.items():
        owner, _, leaf = name.removeprefix("model.").replace("layers.", "layers_").rpartition(".")
        kernel = leaf == "weight" and value.ndim == 2 and "embed" not in owner
        if leaf == "weight":
            leaf = "kernel" if kernel else "embedding" if "embed" in owner else "scale"
        values[f"{owner}.{leaf}"] = np.array(value.T if kernel else value, order="C")
    return values


@pytest.fixture
def audited(checkpoint: Values, port: Values) -> Callable[..., Audit]:
    """`audited(framework="linen")`: the audit of ``port`` as it is now against ``checkpoint``."""

    def run(framework: str = "linen", reference: Values | None = None) -> Audit:
        return audit(parameters(reference or checkpoint), parameters(port, framework))

    return run
