"""Other right ways to compute the linear layers and the embedding of the linen port.

Apart from `right`, because linen's own layers compute these: they take the way to multiply as an attribute.
"""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING, Any

import flax.linen as nn
import jax
import jax.numpy as jnp

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

SPLITS = 4
"""Parts that the sum over the inputs is cut into."""


def backwards(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """[..., in], [in, out] -> [..., out], added up from the last input to the first."""
    return jnp.matmul(x[..., ::-1], kernel[::-1])


def wide(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Accumulated in float32 and rounded once."""
    return jnp.matmul(x, kernel, preferred_element_type=jnp.float32).astype(x.dtype)


def split(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """In parts over the inputs, whose float32 results are added."""
    parts = zip(jnp.split(x, SPLITS, -1), jnp.split(kernel, SPLITS), strict=True)
    sums = [jnp.matmul(a, b, preferred_element_type=jnp.float32) for a, b in parts]
    return sum(sums[1:], sums[0]).astype(x.dtype)


def split_narrow(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """In parts over the inputs, each rounded to the dtype before they are added: tensor parallelism."""
    parts = zip(jnp.split(x, SPLITS, -1), jnp.split(kernel, SPLITS), strict=True)
    sums = [jnp.matmul(a, b) for a, b in parts]
    return sum(sums[1:], sums[0])


def fused(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """As a part of one product with a kernel twice as wide, as fused q/k/v and gate/up are."""
    return jnp.matmul(x, jnp.concatenate([kernel[:, ::-1], kernel], 1))[..., kernel.shape[1] :]


def by_token(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """One token after the other, as in decoding."""
    rows = x.reshape(-1, x.shape[-1])
    found: jax.Array = jax.lax.map(lambda row: row @ kernel, rows)
    return found.reshape(*x.shape[:-1], kernel.shape[1])


class OneHotEmbed(nn.Embed):
    """The table multiplied by one-hot rows."""

    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Ids [...] -> [..., features]."""
        rows = jax.nn.one_hot(inputs, self.num_embeddings, dtype=self.dtype)
        return jnp.matmul(rows, jnp.asarray(self.embedding, self.dtype))


def linen_with(layers: Mapping[str, Any]) -> ModuleType:
    """`flax.linen` for one copy of the port: `Dense` that multiplies by ``layers["dense"]``, `Embed` another class."""
    found = ModuleType("flax.linen")
    vars(found).update(vars(nn))
    if "dense" in layers:
        product = layers["dense"]

        def dense(*given: Any, **options: Any) -> nn.Dense:
            return nn.Dense(*given, **options, dot_general=_as_dot_general(product))

        vars(found)["Dense"] = dense
    if "embed" in layers:
        vars(found)["Embed"] = layers["embed"]
    return found


def _as_dot_general(product: Callable[[jax.Array, jax.Array], jax.Array]) -> Callable[..., Any]:
    """``product`` in the place of `jax.lax.dot_general`, of which a dense layer asks one thing only."""

    def dot_general(x: Any, kernel: Any, dimension_numbers: Any, **_options: Any) -> Any:
        assert dimension_numbers == (((x.ndim - 1,), (0,)), ((), ())), dimension_numbers
        return product(x, kernel)

    return dot_general
