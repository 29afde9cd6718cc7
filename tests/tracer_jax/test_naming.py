"""Where the iteration of a scan goes."""

from __future__ import annotations

import pytest

from firstdiff.tracer.jax.naming import filled, numbered, scan_places


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (
            ["layers", "layers.mlp", "layers.mlp.up"],
            ["layers.7", "layers.7.mlp", "layers.7.mlp.up"],
        ),
        (["layers"], ["layers.7"]),
        (["m.layers.ln", "m.layers.mlp"], ["m.layers.7.ln", "m.layers.7.mlp"]),
        (["layers.local", "layers.global"], ["layers.7.local", "layers.7.global"]),
        (["attn", "mlp"], ["7.attn", "7.mlp"]),
        (["layers", "rotary", "layers.attn"], ["layers.7", "rotary", "layers.7.attn"]),
        (["rotary", "layers.q", "layers.k"], ["rotary", "layers.7.q", "layers.7.k"]),
        (
            ["CheckpointBlock_0", "CheckpointBlock_0.q"],
            ["CheckpointBlock_0.7", "CheckpointBlock_0.7.q"],
        ),
        (["layers", "layers_norm"], ["7.layers", "7.layers_norm"]),
        ([], []),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, list) else None,
)
def test_the_iteration_follows_the_scanned_module(paths, expected):
    places = scan_places(paths)
    got = [numbered(p, [] if places[p] is None else [(places[p], 7)]) for p in paths]
    assert got == expected


def test_nested_iterations_keep_their_order():
    assert numbered("stage.block.q", [(1, 0), (2, 3)]) == "stage.0.block.3.q"
    assert numbered("stage", [(1, 0), (1, 3)]) == "stage.0.3"


def test_placeholders_take_the_innermost_iterations():
    assert filled("a.{}.b.{}", [1, 2, 3]) == "a.2.b.3"
    assert filled("a.{}", []) == "a.{}"
