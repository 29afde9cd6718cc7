"""Equinox models: names, batch axes, shared modules, further methods, and type identity."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from firstdiff.tracer.jax.equinox import EquinoxFrontEnd


class Cache(eqx.Module):
    keys: jax.Array
    length: int = eqx.field(static=True)


class Block(eqx.Module):
    norm: eqx.nn.LayerNorm
    linear: eqx.nn.Linear
    activation: object = eqx.field(static=True)

    def __init__(self, key):
        self.norm = eqx.nn.LayerNorm(4)
        self.linear = eqx.nn.Linear(4, 4, key=key)
        self.activation = jnp.tanh

    def __call__(self, x):
        assert type(self.linear).__name__ == "Linear"
        assert isinstance(self, Block)
        y = self.mixed(self.norm(x))
        return x + y, Cache(y, 3)

    @jax.jit
    def mixed(self, x):
        return self.activation(self.linear(x))

    @property
    def size(self):
        return self.linear.weight.size


class Model(eqx.Module):
    embedding: eqx.nn.Embedding
    blocks: tuple[Block, ...]
    again: Block
    head: eqx.nn.Sequential
    tied: eqx.nn.Shared
    unused: eqx.nn.Linear

    def __init__(self, key):
        a, b, c, d = jax.random.split(key, 4)
        self.embedding = eqx.nn.Embedding(11, 4, key=a)
        self.blocks = (Block(b), Block(c))
        self.again = self.blocks[1]
        self.head = eqx.nn.Sequential([eqx.nn.Linear(4, 4, key=d), eqx.nn.Lambda(jnp.tanh)])
        pair = (eqx.nn.Linear(4, 2, key=a), eqx.nn.Linear(4, 2, key=b))
        self.tied = eqx.nn.Shared(pair, where=lambda p: p[1].weight, get=lambda p: p[0].weight)
        self.unused = eqx.nn.Linear(4, 4, key=d)

    def get_scale(self):
        return jnp.float32(2)

    def __call__(self, ids):
        x = self.encode(ids) * self.get_scale()
        for block in (*self.blocks, self.again):
            x, _ = jax.vmap(block)(x)
        first, second = self.tied()
        x = jax.vmap(self.head)(x)
        return jax.vmap(first)(x) + jax.vmap(second)(x)

    def encode(self, ids):
        return jax.vmap(self.embedding)(ids)


@pytest.fixture
def model() -> Model:
    return Model(jax.random.key(5))


IDS = jnp.array([1, 4, 9])


def test_inputs_and_outputs_are_named_by_path_method_and_leaf(model, record):
    recorded = record(model, None, {"ids": IDS})
    block = [
        "(x)",
        ".norm(x)",
        ".norm:",
        ".mixed(x)",
        ".linear(x)",
        ".linear:",
        ".mixed:",
        ":0",
        ":1.keys",
    ]
    assert recorded.names == [
        *("(ids)", ".encode(ids)", "embedding(x)", "embedding:", ".encode:", ".get_scale:"),
        *("blocks.0" + name for name in block),
        *("blocks.1" + name for name in block),
        *("blocks.1" + name + "#1" for name in block),
        *(
            "head(x)",
            "head.layers.0(x)",
            "head.layers.0:",
            "head.layers.1(x)",
            "head.layers.1:",
            "head:",
        ),
        *("tied.0(x)", "tied.0:", "tied.1(x)", "tied.1:", ":"),
    ]
    assert recorded.capture.never_fired == ("unused",)
    assert recorded.capture.aliases == {"blocks.1": ("again",)}
    assert recorded.classes["blocks.0"] == "Block"


def test_the_batch_axis_comes_back_in_front(model, record):
    recorded = record(model, None, {"ids": IDS})
    weight, bias = (
        np.asarray(p) for p in (model.blocks[0].linear.weight, model.blocks[0].linear.bias)
    )
    x = recorded.value("blocks.0.linear", "input", "x")
    assert x.shape == (3, 4)
    np.testing.assert_allclose(
        recorded.value("blocks.0.linear"), x @ weight.T + bias, rtol=2e-5, atol=1e-6
    )
    assert [(axis.kind, axis.size) for axis in recorded.axes["blocks.0.linear"]] == [("vmap", 3)]


def test_values_through_an_inner_vmap_over_other_axes(model, record):
    def call(model, x):
        return jax.vmap(jax.vmap(model.blocks[0].linear), in_axes=1, out_axes=1)(x)

    x = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
    recorded = record(model, call, {"x": x})
    np.testing.assert_array_equal(recorded.value("blocks.0.linear", "input", "x"), x.swapaxes(0, 1))


def test_the_users_model_and_classes_are_untouched(model, record):
    before = jax.tree_util.tree_structure(model)
    methods = dict(vars(Block))
    record(model, None, {"ids": IDS})
    assert dict(vars(Block)) == methods
    assert jax.tree_util.tree_structure(model) == before
    assert type(model.blocks[0]) is Block


def test_a_module_with_post_init_and_converter_is_traced(record):
    class Scaled(eqx.Module):
        scale: jax.Array = eqx.field(converter=jnp.asarray)
        twice: jax.Array | None = None

        def __post_init__(self):
            self.twice = self.scale * 2

        def __call__(self, x):
            return x * self.twice

    recorded = record(Scaled(3.0), None, {"x": jnp.arange(3.0)})
    np.testing.assert_array_equal(recorded.value(""), [0, 6, 12])
    assert recorded.classes[""] == "Scaled"


def test_state_is_left_alone_and_the_model_may_sit_in_a_container(record):
    model, state = eqx.nn.make_with_state(eqx.nn.BatchNorm)(
        4, axis_name="batch", mode="ema", inference=True
    )
    x = jnp.arange(8.0).reshape(2, 4)

    def call(parts, x):
        run = jax.vmap(parts["norm"], axis_name="batch", in_axes=(0, None), out_axes=(0, None))
        return run(x, state)[0]

    recorded = record({"norm": model}, call, {"x": x})
    assert recorded.names == ["(x)", "norm(x)", "norm:0", ":"]


def test_who_handles_what(model):
    front = EquinoxFrontEnd()
    assert front.handles(model)
    assert front.handles([{"a": model}])
    assert not front.handles({"w": jnp.ones(2)})
