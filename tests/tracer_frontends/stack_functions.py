"""The stack in plain functions."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from stack import LAYERS, WIDTH, Subject


def up(x, w, b):
    return x @ w + b


def down(x, w, b):
    return x @ w + b


def block(weights, x):
    h = up(x, weights["up_w"], weights["up_b"])
    return x + down(jnp.tanh(h), weights["down_w"], weights["down_b"])


def build(way, weights, mesh=None):
    place = mesh or (lambda _name, value: jnp.asarray(value))
    tree = {name: place(name, value) for name, value in weights.items()}
    run = jax.checkpoint(block) if way == "remat" else jax.jit(block) if way == "warm" else block

    def unrolled(tree, x):
        for index in range(LAYERS):
            x = run({name: value[index] for name, value in tree.items()}, x)
        return x

    def cond(tree, x):
        first, second = ({name: value[index] for name, value in tree.items()} for index in (0, 1))
        return jax.lax.cond(x.sum() > 0, lambda x: block(first, x), lambda x: block(second, x), x)

    if way == "warm":
        unrolled(tree, jnp.ones((4, WIDTH)))
    ways = {
        "scan": lambda tree, x: jax.lax.scan(lambda x, w: (block(w, x), None), x, tree)[0],
        "vmap": jax.vmap(unrolled, in_axes=(None, 0)),
        "cond": cond,
    }
    if way == "shard_map":
        ways[way] = jax.shard_map(
            unrolled, mesh=mesh.mesh, in_specs=(P(), P("data")), out_specs=P("data")
        )
    run_all = ways.get(way, unrolled)
    inside = "" if way == "scan" else "unrolled."
    if way == "cond":
        inside = "cond."

    def where(place, part):
        index = "" if way == "cond" else f".{place}"
        return f"{inside}block{index}" + (f".{part}" if part else ""), 0

    return Subject(
        tree,
        lambda tree, x: run_all(tree, x),
        where,
        order=(0,) if way == "cond" else range(LAYERS),
    )
