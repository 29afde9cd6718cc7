"""The stack in Flax NNX."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec as P
from stack import HIDDEN, LAYERS, WIDTH, Subject, dotted


class Block(nnx.Module):
    def __init__(self, rngs):
        self.up = nnx.Linear(WIDTH, HIDDEN, rngs=rngs)
        self.down = nnx.Linear(HIDDEN, WIDTH, rngs=rngs)

    def __call__(self, x):
        return x + self.down(jnp.tanh(self.up(x)))


class Stack(nnx.Module):
    def __init__(self, rngs, way):
        self.way = way
        self.layers = nnx.List([Block(rngs) for _ in range(LAYERS)])

    def __call__(self, x):
        if self.way == "cond":
            first, second = self.layers[0], self.layers[1]
            return nnx.cond(x.sum() > 0, _first, _second, first, second, x)
        for layer in self.layers:
            x = nnx.remat(lambda m, x: m(x))(layer, x) if self.way == "remat" else layer(x)
        return x


def _first(first, _second, x):
    return first(x)


def _second(_first, second, x):
    return second(x)


class Scanned(nnx.Module):
    def __init__(self, rngs):
        keys = nnx.split_rngs(splits=LAYERS)
        self.layers = keys(nnx.vmap(Block, in_axes=(0,), out_axes=0))(rngs)

    def __call__(self, x):
        return nnx.scan(lambda x, m: m(x), in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)(
            x, self.layers
        )


def build(way, weights, mesh=None):
    if way == "scan":
        model = Scanned(nnx.Rngs(0))
        _fill(model.layers, weights, slice(None), mesh)
        return Subject(model, lambda m, x: m(x), dotted)
    model = Stack(nnx.Rngs(0), way)
    for index, block in enumerate(model.layers):
        _fill(block, weights, index, mesh)
    run = nnx.jit(lambda m, x: m(x)) if way == "warm" else lambda m, x: m(x)
    if way == "warm":
        run(model, jnp.ones((4, WIDTH)))
    if way == "vmap":
        return Subject(
            model, lambda m, x: nnx.vmap(lambda m, x: m(x), in_axes=(None, 0))(m, x), dotted
        )
    if way == "shard_map":
        return Subject(model, _by_shards(mesh), dotted)
    return Subject(model, run, dotted, order=(0,) if way == "cond" else range(LAYERS))


def _fill(block, weights, index, mesh):
    place = mesh or (lambda _name, value: jnp.asarray(value))
    for name in ("up", "down"):
        linear = getattr(block, name)
        linear.kernel[...] = place(f"{name}_w", weights[f"{name}_w"][index])
        linear.bias[...] = place(f"{name}_b", weights[f"{name}_b"][index])


def _by_shards(mesh):
    def call(model, x):
        return jax.shard_map(
            lambda x: model(x), mesh=mesh.mesh, in_specs=P("data"), out_specs=P("data")
        )(x)

    return call
