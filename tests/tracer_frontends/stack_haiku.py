"""The stack in Haiku; scanned by `layer_stack`."""

from __future__ import annotations

import haiku as hk
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from stack import HIDDEN, LAYERS, WIDTH, Subject


class Block(hk.Module):
    def __call__(self, x):
        h = hk.Linear(HIDDEN, name="up")(x)
        return x + hk.Linear(WIDTH, name="down")(jnp.tanh(h))


class Stack(hk.Module):
    def __init__(self, way):
        super().__init__(name="stack")
        self.way = way

    def __call__(self, x):
        if self.way == "scan":
            return hk.experimental.layer_stack(LAYERS, name="all")(_block)(x)
        blocks = [Block(name=f"layers_{index}") for index in range(LAYERS)]
        if self.way == "cond":
            return hk.cond(x.sum() > 0, blocks[0], blocks[1], x)
        for block in blocks:
            x = hk.remat(block)(x) if self.way == "remat" else block(x)
        return x


def _block(x):
    return Block(name="layers")(x)


def build(way, weights, mesh=None):
    place = mesh or (lambda _name, value: jnp.asarray(value))

    def block(index):
        return {
            name: {
                "w": place(f"{name}_w", weights[f"{name}_w"][index]),
                "b": place(f"{name}_b", weights[f"{name}_b"][index]),
            }
            for name in ("up", "down")
        }

    if way == "scan":
        tree = {f"stack/all/layers/{name}": value for name, value in block(slice(None)).items()}
    else:
        tree = {
            f"stack/layers_{index}/{name}": value
            for index in range(LAYERS)
            for name, value in block(index).items()
        }
    apply = hk.without_apply_rng(hk.transform(lambda x: Stack(way)(x))).apply
    run = jax.jit(apply) if way == "warm" else apply
    if way == "warm":
        run(tree, jnp.ones((4, WIDTH)))
    if way == "vmap":
        run = jax.vmap(apply, in_axes=(None, 0))
    if way == "shard_map":
        run = jax.shard_map(apply, mesh=mesh.mesh, in_specs=(P(), P("data")), out_specs=P("data"))
    return Subject(
        tree,
        lambda tree, x: run(tree, x),
        _scanned if way == "scan" else _unrolled,
        order=(0,) if way == "cond" else range(LAYERS),
    )


def _unrolled(place, part):
    return f"stack.layers_{place}" + (f".{part}" if part else ""), 0


def _scanned(place, part):
    return f"stack.all.layers.{place}" + (f".{part}" if part else ""), 0
