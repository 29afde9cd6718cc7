"""Wrong versions of what the BERT port does, each as small as the mistake. Apart, so that the port stays readable."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

if TYPE_CHECKING:
    from collections.abc import Callable


def gelu_tanh(x: jax.Array) -> jax.Array:
    """The tanh form, which is jax's default; BERT's is exact."""
    return jax.nn.gelu(x, approximate=True)


def sum_embeddings_without_types(
    words: jax.Array, types: jax.Array, positions: jax.Array
) -> jax.Array:
    """Leaves the token types out, as if type 0 were none."""
    del types
    return words + positions


def norm_of_branch(
    norm: Callable[[jax.Array], jax.Array], stream: jax.Array, branch: jax.Array
) -> jax.Array:
    """Norms the branch before it is added."""
    return stream + norm(branch)


def padding_mask_none(input_ids: jax.Array, attention_mask: jax.Array | None) -> jax.Array:
    """Padded tokens stay visible; [b, 1, 1, t]."""
    del attention_mask
    return jnp.zeros((input_ids.shape[0], 1, 1, input_ids.shape[1]), jnp.float32)


def last_token(x: jax.Array) -> jax.Array:
    """[b, t, e] -> [b, e]: what a causal model would pool."""
    return x[:, -1]


def mean_token(x: jax.Array) -> jax.Array:
    """[b, t, e] -> [b, e]: the mean over all tokens, padded ones too."""
    return x.mean(axis=1)


def pooler_activation_none(x: jax.Array) -> jax.Array:
    """Leaves the tanh out."""
    return x


def sum_embeddings_without_positions(
    words: jax.Array, types: jax.Array, positions: jax.Array
) -> jax.Array:
    """Leaves the learned positions out."""
    del positions
    return words + types
