"""The stack in Keras; its scan runs one block three times, as Keras stacks no weights."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import keras
from jax.sharding import PartitionSpec as P
from stack import HIDDEN, LAYERS, WIDTH, Subject, dotted


class Block(keras.Layer):
    def __init__(self, **options):
        super().__init__(**options)
        self.up = keras.layers.Dense(HIDDEN)
        self.down = keras.layers.Dense(WIDTH)

    def build(self, shape):
        self.up.build(shape)
        self.down.build((*shape[:-1], HIDDEN))

    def call(self, x):
        return x + self.down(keras.ops.tanh(self.up(x)))


class Stack(keras.Model):
    def __init__(self, way):
        super().__init__()
        self.way = way
        self.layers_ = [Block(name=f"layers.{index}") for index in range(LAYERS)]

    def build(self, shape):
        for block in self.layers_:
            block.build(shape)

    def call(self, x):
        if self.way == "cond":
            first, second = self.layers_[:2]
            return keras.ops.cond(x.sum() > 0, lambda: first(x), lambda: second(x))
        if self.way == "scan":
            first = self.layers_[0]
            return jax.lax.scan(lambda x, _: (first(x), None), x, None, length=LAYERS)[0]
        for block in self.layers_:
            x = (
                jax.checkpoint(lambda x, block=block: block(x))(x)
                if self.way == "remat"
                else block(x)
            )
        return x


def build(way, weights, mesh=None):
    place = mesh or (lambda _name, value: jnp.asarray(value))
    model = Stack(way)
    model.build((4, WIDTH))
    for index, block in enumerate(model.layers_):
        for name in ("up", "down"):
            dense = getattr(block, name)
            dense.kernel._value = place(f"{name}_w", weights[f"{name}_w"][index])
            dense.bias._value = place(f"{name}_b", weights[f"{name}_b"][index])
    if way == "scan":
        return Subject(model, _plain, _shared, order=(0,) * LAYERS)
    if way == "warm":
        return Subject(model, _warm(model), dotted)
    calls = {"vmap": _by_example, "shard_map": _by_shards(mesh)}
    order = (0,) if way == "cond" else range(LAYERS)
    return Subject(model, calls.get(way, _plain), dotted, order=order)


def _plain(model, x):
    return model(x)


def _shared(place, part):
    return "layers.0" + (f".{part}" if part else ""), place


def _warm(model):
    run = jax.jit(lambda trained, x: model.stateless_call(trained, [], x)[0])
    run([variable.value for variable in model.trainable_variables], jnp.ones((4, WIDTH)))

    def call(model, x):
        return run([variable.value for variable in model.trainable_variables], x)

    return call


def _by_example(model, x):
    return jax.vmap(lambda row: model(row[None])[0])(x)


def _by_shards(mesh):
    def call(model, x):
        return jax.shard_map(
            lambda x: model(x), mesh=mesh.mesh, in_specs=P("data"), out_specs=P("data")
        )(x)

    return call
