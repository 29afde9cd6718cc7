"""Haiku functions: names without method segments, `layer_stack`, and what is left out."""

from __future__ import annotations

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from haiku._src.layer_stack import _LayerStack

from firstdiff.tracer.jax.haiku import HaikuFrontEnd, module_path

IDS = jnp.array([[1, 4, 9]])


class Mlp(hk.Module):
    def __call__(self, x):
        return self.tail(jnp.tanh(hk.Linear(6, name="up")(x)))

    def tail(self, h):
        return hk.Linear(4, name="down")(h)


class Block(hk.Module):
    def __call__(self, x, scale=None):
        y = Mlp(name="mlp")(x)
        return x + y * scale, {"aux": y.mean(), "none": None}


class Net(hk.Module):
    def __init__(self):
        super().__init__(name="net")
        self.first = Mlp(name="first")

    def __call__(self, x):
        x = self.first(x)
        x = hk.experimental.layer_stack(2, name="layers")(
            lambda x: Block(name="block")(x, scale=2.0)[0]
        )(x)
        x = hk.experimental.layer_stack(2)(lambda x: Mlp(name="more")(x))(x)
        return self.first(x)


def forward(ids):
    embed = hk.Embed(11, 4, name="embed")
    return Net()(embed(ids)) @ embed.embeddings.T


@pytest.fixture(scope="module")
def transformed():
    run = hk.without_apply_rng(hk.transform(forward))
    return run.init(jax.random.key(2), IDS), lambda params, ids: run.apply(params, ids)


def test_names_are_those_of_the_parameters_without_method_segments(transformed, record):
    recorded = record(*transformed, {"ids": IDS})
    mlp = ["(x)", ".up(inputs)", ".up:", ".tail(h)", ".down(inputs)", ".down:", ".tail:", ":"]
    block = ["(x)", *(".mlp" + name for name in mlp), ":0", ":1.aux"]
    assert recorded.names == [
        *("(ids)", "embed(ids)", "embed:", "net(x)"),
        *("net.first" + name for name in mlp),
        *(f"net.layers.block.{index}{name}" for index in range(2) for name in block),
        *(f"net.more.{index}{name}" for index in range(2) for name in mlp),
        *("net.first" + name + "#1" for name in mlp),
        *("net:", ":"),
    ]
    assert recorded.capture.never_fired == ()
    owners = {module_path(name) for name in transformed[0]}
    assert owners <= {path for path, _ in HaikuFrontEnd().modules(transformed[0])}


def test_values_inside_a_layer_stack(transformed, record):
    params, _ = transformed
    recorded = record(*transformed, {"ids": IDS})
    stacked = {
        name: {k: np.asarray(v, np.float64) for k, v in p.items()} for name, p in params.items()
    }
    up, down = stacked["net/layers/block/mlp/up"], stacked["net/layers/block/mlp/~tail/down"]
    x = recorded.value("net.first").astype(np.float64)
    for index in range(2):
        h = x @ up["w"][index] + up["b"][index]
        np.testing.assert_allclose(
            recorded.value(f"net.layers.block.{index}.mlp.up"), h, rtol=2e-5, atol=1e-6
        )
        x = x + 2 * (np.tanh(h) @ down["w"][index] + down["b"][index])
        np.testing.assert_allclose(
            recorded.value(f"net.layers.block.{index}", leaf="0"), x, rtol=2e-5, atol=1e-6
        )


def test_state_and_a_tuple_of_trees(record):
    def forward(x, training):
        return hk.BatchNorm(True, True, 0.9, name="norm")(x, is_training=training)

    run = hk.without_apply_rng(hk.transform_with_state(forward))
    x = jnp.arange(8.0).reshape(2, 4)
    trees = run.init(jax.random.key(0), x, True)

    recorded = record(trees, lambda trees, x: run.apply(*trees, x, False)[0], {"x": x})
    assert recorded.capture.front_end == "haiku"
    assert "norm(inputs)" in recorded.names
    average = np.asarray(x).mean(0)
    variance = np.asarray(x).var(0)
    np.testing.assert_allclose(
        recorded.value("norm"), (np.asarray(x) - average) / np.sqrt(variance + 1e-5), rtol=1e-4
    )


def test_an_overridden_method_is_one_call(record):
    class Twice(Mlp):
        def __call__(self, x):
            return 2 * super().__call__(x)

    run = hk.without_apply_rng(hk.transform(lambda x: Twice(name="twice")(x)))
    x = jnp.ones((1, 4))
    recorded = record(run.init(jax.random.key(0), x), lambda p, x: run.apply(p, x), {"x": x})
    assert [name for name in recorded.names if name.startswith("twice(")] == ["twice(x)"]


def test_nothing_is_left_after_an_interrupt(transformed, record):
    def interrupted(params, ids):
        transformed[1](params, ids)
        raise KeyboardInterrupt

    before = vars(_LayerStack)["__call__"]
    with pytest.raises(KeyboardInterrupt):
        record(transformed[0], interrupted, {"ids": IDS})
    assert vars(_LayerStack)["__call__"] is before
    assert "firstdiff" not in str(jax.make_jaxpr(transformed[1])(transformed[0], IDS))


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("net/~/first/~tail/down", "net.first.down"),
        ("net/__layer_stack_no_per_layer/more/up", "net.more.up"),
        ("embed", "embed"),
    ],
)
def test_module_path(name, path):
    assert module_path(name) == path


def test_who_handles_what():
    front = HaikuFrontEnd()
    assert front.handles({"linear": {"w": jnp.ones(2)}})
    assert front.handles(({"linear": {"w": jnp.ones(2)}}, {}))
    assert not front.handles(3)
    assert not front.handles({})
