"""The stack in Equinox: modules see one example."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from stack import LAYERS, WIDTH, Subject, dotted


class Block(eqx.Module):
    up: eqx.nn.Linear
    down: eqx.nn.Linear

    def __call__(self, x):
        return x + self.down(jnp.tanh(self.up(x)))


class Stack(eqx.Module):
    layers: list[Block]
    way: str = eqx.field(static=True)

    def __call__(self, x):
        for layer in self.layers:
            x = eqx.filter_checkpoint(layer)(x) if self.way == "remat" else layer(x)
        return x


class Scanned(eqx.Module):
    layers: Block

    def __call__(self, x):
        arrays, static = eqx.partition(self.layers, eqx.is_array)
        return jax.lax.scan(lambda x, a: (eqx.combine(a, static)(x), None), x, arrays)[0]


def build(way, weights, mesh=None):
    place = mesh or (lambda _name, value: jnp.asarray(value))

    def linear(name, index):
        made = eqx.nn.Linear(2, 2, key=jax.random.key(0))
        kernel = weights[f"{name}_w"][index].swapaxes(-1, -2)
        values = (place(f"{name}_w.T", kernel), place(f"{name}_b", weights[f"{name}_b"][index]))
        return eqx.tree_at(lambda m: (m.weight, m.bias), made, values)

    def block(index):
        return Block(linear("up", index), linear("down", index))

    if way == "scan":
        return Subject(Scanned(block(slice(None))), lambda m, x: jax.vmap(m)(x), dotted)
    model = Stack([block(index) for index in range(LAYERS)], way)
    if way == "cond":
        return Subject(model, _cond, dotted, order=(0,))
    if way == "shard_map":
        return Subject(model, _by_shards(mesh), dotted)
    run = eqx.filter_jit(lambda m, x: jax.vmap(m)(x)) if way == "warm" else None
    if run:
        run(model, jnp.ones((4, WIDTH)))
    return Subject(model, run or (lambda m, x: jax.vmap(m)(x)), dotted)


def _cond(model, x):
    first, second = (jax.vmap(layer) for layer in model.layers[:2])
    return jax.lax.cond(x.sum() > 0, first, second, x)


def _by_shards(mesh):
    def call(model, x):
        return jax.shard_map(
            jax.vmap(model), mesh=mesh.mesh, in_specs=P("data"), out_specs=P("data")
        )(x)

    return call
