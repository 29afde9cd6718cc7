"""The stack in Flax linen."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from stack import HIDDEN, LAYERS, WIDTH, Subject, dotted


class Block(nn.Module):
    @nn.compact
    def __call__(self, x):
        return x + nn.Dense(WIDTH, name="down")(jnp.tanh(nn.Dense(HIDDEN, name="up")(x)))


class Step(nn.Module):
    """A block as `nn.scan` wants it; its modules lie where a block's lie."""

    @nn.compact
    def __call__(self, x, _):
        h = nn.Dense(HIDDEN, name="up")(x)
        return x + nn.Dense(WIDTH, name="down")(jnp.tanh(h)), None


class Stack(nn.Module):
    way: str

    @nn.compact
    def __call__(self, x):
        if self.way == "scan":
            axes = {"variable_axes": {"params": 0}, "split_rngs": {"params": True}}
            return nn.scan(Step, length=LAYERS, **axes)(name="layers")(x, None)[0]
        made = nn.remat(Block) if self.way == "remat" else Block
        blocks = [made(name=f"layers_{index}") for index in range(LAYERS)]
        if self.way == "cond":
            return nn.cond(
                x.sum() > 0, lambda _m, x: blocks[0](x), lambda _m, x: blocks[1](x), self, x
            )
        for block in blocks:
            x = block(x)
        return x


def build(way, weights, mesh=None):
    place = mesh or (lambda _name, value: jnp.asarray(value))

    def block(index):
        return {
            name: {
                "kernel": place(f"{name}_w", weights[f"{name}_w"][index]),
                "bias": place(f"{name}_b", weights[f"{name}_b"][index]),
            }
            for name in ("up", "down")
        }

    if way == "scan":
        params = {"layers": block(slice(None))}
    else:
        params = {f"layers_{index}": block(index) for index in range(LAYERS)}
    apply = Stack(way).apply
    run = jax.jit(apply) if way == "warm" else apply
    if way == "warm":
        run({"params": params}, jnp.ones((4, WIDTH)))
    if way == "vmap":
        run = jax.vmap(apply, in_axes=(None, 0))
    if way == "shard_map":
        run = jax.shard_map(apply, mesh=mesh.mesh, in_specs=(P(), P("data")), out_specs=P("data"))
    return Subject(
        {"params": params},
        lambda variables, x: run(variables, x),
        _scanned if way == "scan" else _unrolled,
        order=(0,) if way == "cond" else range(LAYERS),
    )


def _unrolled(place, part):
    return f"layers_{place}" + (f".{part}" if part else ""), 0


_scanned = dotted
