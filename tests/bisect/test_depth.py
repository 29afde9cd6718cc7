"""What counts as depth: blocks by their paths, whatever the family calls its stack."""

from __future__ import annotations

import pytest

from firstdiff.diff.depth import blocks
from firstdiff.traces.schema import Activation, Key


def activations(*paths: str) -> list[Activation]:
    return [
        Activation(order, Key(path, "input", "x"), "float32", (2, 3))
        for order, path in enumerate(("", *paths))
    ]


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (
            ("model", "model.embed", "model.layers.0", "model.layers.0.mlp", "model.layers.1", "model.norm", "head"),
            ("model.embed", "model.layers.0", "model.layers.1", "model.norm", "head"),
        ),
        (("wte", "h_0", "h_0.attn", "h_1", "ln_f"), ("wte", "h_0", "h_1", "ln_f")),
        (
            ("bert", "bert.encoder", "bert.encoder.layer.0", "bert.encoder.layer.1", "cls"),
            ("bert.encoder.layer.0", "bert.encoder.layer.1", "cls"),
        ),
        (("net", "net.a", "net.b"), ("net.a", "net.b")),
        (
            ("layers.0", "layers.0.experts.0", "layers.0.experts.1", "layers.1", "norm"),
            ("layers.0", "layers.1", "norm"),
        ),
    ],
)  # fmt: skip
def test_blocks(paths: tuple[str, ...], expected: tuple[str, ...]) -> None:
    assert blocks(activations(*paths)) == expected
