"""One residual stack of MLPs in every JAX framework, about 20 million parameters: what captures are measured on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

WIDTH, HIDDEN, LAYERS, TOKENS = 512, 2688, 6, 128


def linen() -> tuple[Any, Callable[..., Any]]:
    """The stack in linen: variables and a call."""
    import flax.linen as nn

    class Block(nn.Module):
        @nn.compact
        def __call__(self, x: Any) -> Any:
            h = nn.gelu(nn.Dense(HIDDEN, name="up")(nn.LayerNorm(name="norm")(x)))
            h = x + nn.Dense(WIDTH, name="down")(h)
            return h + nn.Dense(WIDTH, name="out")(nn.Dense(WIDTH, name="mix")(h))

    class Stack(nn.Module):
        @nn.compact
        def __call__(self, x: Any) -> Any:
            for index in range(LAYERS):
                x = Block(name=f"layers_{index}")(x)
            return x

    return Stack().init(jax.random.key(0), tokens()), lambda v, x: Stack().apply(v, x)


def nnx() -> tuple[Any, Callable[..., Any]]:
    """The stack in NNX."""
    from flax import nnx as lib

    class Block(lib.Module):
        def __init__(self, rngs: Any) -> None:
            self.norm = lib.LayerNorm(WIDTH, rngs=rngs)
            self.up = lib.Linear(WIDTH, HIDDEN, rngs=rngs)
            self.down = lib.Linear(HIDDEN, WIDTH, rngs=rngs)
            self.mix = lib.Linear(WIDTH, WIDTH, rngs=rngs)
            self.out = lib.Linear(WIDTH, WIDTH, rngs=rngs)

        def __call__(self, x: Any) -> Any:
            h = x + self.down(lib.gelu(self.up(self.norm(x))))
            return h + self.out(self.mix(h))

    class Stack(lib.Module):
        def __init__(self, rngs: Any) -> None:
            self.layers = lib.List([Block(rngs) for _ in range(LAYERS)])

        def __call__(self, x: Any) -> Any:
            for layer in self.layers:
                x = layer(x)
            return x

    return Stack(lib.Rngs(0)), lambda m, x: m(x)


def equinox() -> tuple[Any, Callable[..., Any]]:
    """The stack in Equinox, one token at a time under vmap."""
    import equinox as eqx

    class Block(eqx.Module):
        norm: Any
        up: Any
        down: Any
        mix: Any
        out: Any

        def __init__(self, key: Any) -> None:
            keys = jax.random.split(key, 4)
            sizes = ((WIDTH, HIDDEN), (HIDDEN, WIDTH), (WIDTH, WIDTH), (WIDTH, WIDTH))
            self.norm = eqx.nn.LayerNorm(WIDTH)
            self.up, self.down, self.mix, self.out = (
                eqx.nn.Linear(*size, key=key) for size, key in zip(sizes, keys, strict=True)
            )

        def __call__(self, x: Any) -> Any:
            h = x + self.down(jax.nn.gelu(self.up(self.norm(x))))
            return h + self.out(self.mix(h))

    class Stack(eqx.Module):
        layers: list[Any]

        def __call__(self, x: Any) -> Any:
            for layer in self.layers:
                x = layer(x)
            return x

    stack = Stack([Block(key) for key in jax.random.split(jax.random.key(0), LAYERS)])
    return stack, lambda m, x: jax.vmap(jax.vmap(m))(x)


def haiku() -> tuple[Any, Callable[..., Any]]:
    """The stack in Haiku."""
    import haiku as hk

    def block(x: Any) -> Any:
        norm = hk.LayerNorm(-1, create_scale=True, create_offset=True, name="norm")
        h = x + hk.Linear(WIDTH, name="down")(jax.nn.gelu(hk.Linear(HIDDEN, name="up")(norm(x))))
        return h + hk.Linear(WIDTH, name="out")(hk.Linear(WIDTH, name="mix")(h))

    def stack(x: Any) -> Any:
        for _ in range(LAYERS):
            x = block(x)
        return x

    forward = hk.without_apply_rng(hk.transform(stack))
    return forward.init(jax.random.key(0), tokens()), lambda p, x: forward.apply(p, x)


def keras() -> tuple[Any, Callable[..., Any]]:
    """The stack in Keras."""
    import keras as lib

    class Block(lib.Layer):
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            self.norm = lib.layers.LayerNormalization(name="norm")
            self.up = lib.layers.Dense(HIDDEN, name="up")
            self.down = lib.layers.Dense(WIDTH, name="down")
            self.mix = lib.layers.Dense(WIDTH, name="mix")
            self.out = lib.layers.Dense(WIDTH, name="out")

        def call(self, x: Any) -> Any:
            h = x + self.down(jax.nn.gelu(self.up(self.norm(x))))
            return h + self.out(self.mix(h))

    stack = lib.Sequential([Block(name=f"layers.{index}") for index in range(LAYERS)])
    stack(tokens())
    return stack, lambda m, x: m(x)


def functions() -> tuple[Any, Callable[..., Any]]:
    """The stack in plain functions, its layers scanned."""
    sizes = {"up": (WIDTH, HIDDEN), "down": (HIDDEN, WIDTH), "mix": (WIDTH, WIDTH)}
    sizes["out"] = (WIDTH, WIDTH)
    rng = np.random.default_rng(0)
    tree = {
        name: jnp.asarray(rng.normal(size=(LAYERS, *size), scale=0.03).astype(np.float32))
        for name, size in sizes.items()
    }

    def mlp(w: Any, x: Any) -> Any:
        return jax.nn.gelu(x @ w["up"]) @ w["down"]

    def layer(w: Any, x: Any) -> Any:
        h = x + mlp(w, x)
        return h + h @ w["mix"] @ w["out"]

    return tree, lambda w, x: jax.lax.scan(lambda x, w: (layer(w, x), None), x, w)[0]


STACKS = {
    "linen": linen,
    "nnx": nnx,
    "equinox": equinox,
    "haiku": haiku,
    "keras": keras,
    "functions": functions,
}


def tokens() -> Any:
    """float32 [1, TOKENS, WIDTH]."""
    return jax.random.normal(jax.random.key(1), (1, TOKENS, WIDTH))
