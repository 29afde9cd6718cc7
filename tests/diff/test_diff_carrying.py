"""An error that lives on in the residual stream is not healed by a normalisation that cannot show it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from firstdiff.diff import diff
from firstdiff.diff.carrying import Errors, normalises, unscaled
from firstdiff.diff.measure import Measurement
from firstdiff.traces.schema import Activation, Key

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Maker = Any

STREAM = ("layers.0", "layers.1", "layers.2", "embed_tokens")
NORMS = ("layernorm", "model.norm")


def in_stream(path: str, site: str) -> bool:
    return (path.endswith(STREAM)) or (site == "input" and path.endswith(NORMS))


def changed(maker: Maker, dtype: str, change: Callable[[np.ndarray], np.ndarray]) -> Any:
    """A port whose residual stream is changed everywhere, and nothing else."""
    taps = maker.taps(dtype=dtype, other_order=True)
    for tap in taps:
        if in_stream(tap.path, tap.site) and tap.value.dtype.kind == "f":
            tap.value, tap.same_as = change(tap.value), None
    return diff(maker.reference(dtype), maker.write("p.h5", taps, dtype=dtype, as_port=True))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_scale_that_every_norm_takes_away_is_a_divergence(maker: Maker, dtype: str) -> None:
    result = changed(maker, dtype, lambda x: 2 * x)
    assert result.first is not None
    assert (result.first.name, result.first.key.site) == ("embed_tokens", "output")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_scale_folded_into_the_queries_heals(maker: Maker, dtype: str) -> None:
    taps = maker.taps(dtype=dtype, other_order=True)
    for tap in taps:
        if tap.path.endswith("q_proj") and tap.site == "output":
            tap.value = tap.value * np.float32(0.25)
    result = diff(maker.reference(dtype), maker.write("p.h5", taps, dtype=dtype, as_port=True))
    assert result.finding is None
    assert {row.name.rpartition(".")[2] for row in result.rows if row.healed} == {"q_proj"}


def test_an_error_found_again_later_is_not_healed_by_one_reader(maker: Maker) -> None:
    taps = maker.taps(other_order=True)
    random = np.random.default_rng(3)
    offset = random.normal(0, 1, taps[3].value.shape).astype(np.float32)
    begin = next(n for n, tap in enumerate(taps) if tap.path == "model.layers.1")
    norm = "model.layers.1.input_layernorm"
    blind = next(n for n, tap in enumerate(taps) if (tap.path, tap.site) == (norm, "output"))
    for number, tap in enumerate(taps[begin:], begin):
        if in_stream(tap.path, tap.site):
            tap.value, tap.same_as = tap.value + offset, None
        elif number > blind + 13 and tap.value.dtype.kind == "f":
            noise = random.normal(0, 0.1, tap.value.shape).astype(np.float32)
            tap.value, tap.same_as = tap.value + noise, None
    result = diff(maker.reference(), maker.write("p.h5", taps, as_port=True))
    healer = {row.name: row.healed for row in result.rows if row.key.site == "input"}
    assert healer["layers.1.input_layernorm"] == ""
    assert result.first is not None
    assert (result.first.name, result.first.key.site) == ("layers.1", "input")


def test_what_is_left_of_an_error_without_its_scale() -> None:
    reference = np.array([3.0, 4.0, 0.0])
    port = 5 * reference + np.array([0.0, 0.0, 1.0])
    found = Measurement(
        count=3, valid=3, relative_l2=0.0, error_l2=float(np.linalg.norm(port - reference)),
        reference_l2=5.0, port_l2=float(np.linalg.norm(port)),
    )  # fmt: skip
    assert unscaled(found).error_l2 == pytest.approx(1 / 5)
    opposite = replace(found, error_l2=10.0, port_l2=5.0)
    assert unscaled(opposite) is opposite
    nothing = replace(found, error_l2=0.0, port_l2=5.0)
    assert unscaled(nothing).error_l2 == 0.0


@pytest.mark.parametrize(
    ("path", "class_name", "expected"),
    [
        ("model.layers.0.input_layernorm", "", True),
        ("h.0.ln_1", "", True),
        ("block.scale", "Qwen2RMSNorm", True),
        ("layers.0.mlp", "MLP", False),
        ("layers.0.kiln", "Kiln", False),
    ],
)
def test_a_normalisation_is_known_by_name_or_class(
    path: str, class_name: str, expected: bool
) -> None:
    found = Activation(0, Key(path, "input"), "float32", (1,), class_name)
    assert normalises(found) is expected


def test_an_error_is_found_again_only_in_later_tensors_of_its_shape(maker: Maker) -> None:
    result = diff(maker.reference(), maker.port("bias"))
    rows = {(row.name, row.key.site, row.key.leaf): row for row in result.rows}
    attention = rows["layers.0.self_attn.o_proj", "output", ""]
    value = rows["layers.0.self_attn.v_proj", "output", ""]
    stream = rows["layers.0.post_attention_layernorm", "input", "hidden_states"]
    found = Errors(result.rows).containing(attention)
    assert stream in found
    assert value not in found
    assert attention not in found
    assert {row.activation.shape for row in found} == {attention.activation.shape}
    right = rows["embed_tokens", "output", ""]
    assert Errors(result.rows).containing(right) == []
