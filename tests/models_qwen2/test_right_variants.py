"""Variants are right: each moves the logits by no more than rounding, and each is really another computation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from firstdiff.models.checkpoint import discriminating_inputs
from firstdiff.models.qwen2 import right_layers, subject
from firstdiff.models.variants import VARIANTS
from firstdiff.traces.errors import OptionError

ROUNDING = 1e-5


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_leaves_the_logits_right(name: str, tiny: Path, judge: Any) -> None:
    inputs = discriminating_inputs()
    made = subject("linen", tiny, variant=name)
    logits = made.call(made.model, **inputs).logits
    assert made.name == f"qwen2.linen:{name}"
    assert judge.relative_l2(logits, judge.reference(tiny, inputs).logits, inputs) < ROUNDING


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_is_another_program(name: str, tiny: Path) -> None:
    inputs = discriminating_inputs()

    def program(**options: Any) -> tuple[str, list[bytes]]:
        made = subject("linen", tiny, dtype="bfloat16", **options)
        text = str(jax.make_jaxpr(lambda model: made.call(model, **inputs).logits)(made.model))
        return text, [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(made.model)]

    assert program(variant=name) != program()


@pytest.mark.parametrize(
    "product", ["backwards", "wide", "split", "split_narrow", "fused", "by_token"]
)
def test_every_way_to_multiply_is_a_product(product: str) -> None:
    random = np.random.default_rng(0)
    x, kernel = (random.normal(size=shape).astype(np.float32) for shape in ((2, 3, 8), (8, 5)))
    found = getattr(right_layers, product)(jax.numpy.asarray(x), jax.numpy.asarray(kernel))
    np.testing.assert_allclose(found, x @ kernel, rtol=1e-5, atol=1e-5)


def test_what_cannot_be_varied_is_refused(tiny: Path) -> None:
    with pytest.raises(OptionError, match="no such variant; there are norm_scaled_float32"):
        subject("linen", tiny, variant="softer")
    with pytest.raises(OptionError, match="give one"):
        subject("linen", tiny, variant="silu_float32", fault="norm_eps")
    with pytest.raises(OptionError, match="only the linen port takes other layers"):
        subject("nnx", tiny, variant="matmul_wide")
