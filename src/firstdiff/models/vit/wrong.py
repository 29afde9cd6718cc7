"""Wrong versions of what the ViT port does, each as small as the mistake. Apart, so that the port stays readable."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def flatten_grid_by_column(grid: jax.Array) -> jax.Array:
    """[b, rows, columns, e] -> [b, patches, e], column by column."""
    return jnp.swapaxes(grid, 1, 2).reshape(grid.shape[0], -1, grid.shape[-1])


def join_class_token_last(token: jax.Array, patches: jax.Array) -> jax.Array:
    """[b, n, e] with the class token behind the patches."""
    return jnp.concatenate([patches, token], axis=1)


def channels_reversed(pixels: jax.Array) -> jax.Array:
    """[b, channels, height, width] -> [b, height, width, channels], blue first."""
    return jnp.transpose(pixels, (0, 2, 3, 1))[..., ::-1]


def add_positions_to_patches(tokens: jax.Array, positions: jax.Array) -> jax.Array:
    """The class token gets no position; [b, n, e]."""
    return tokens.at[:, 1:].add(positions[:, 1:])


def image_upside_down(pixels: jax.Array) -> jax.Array:
    """[b, channels, height, width] -> [b, height, width, channels], the last row first."""
    return jnp.transpose(pixels, (0, 2, 3, 1))[:, ::-1]


def add_positions_one_off(tokens: jax.Array, positions: jax.Array) -> jax.Array:
    """Each patch gets the position of the one before, the first that of the class token; [b, n, e]."""
    return tokens.at[:, 1:].add(positions[:, :-1]).at[:, 0].add(positions[:, 0])


def add_positions_none(tokens: jax.Array, positions: jax.Array) -> jax.Array:
    """Leaves the positions out."""
    del positions
    return tokens


def patches_averaged(tokens: jax.Array) -> jax.Array:
    """[b, n, e] -> [b, e]: the mean over the patches, without the class token."""
    return tokens[:, 1:].mean(axis=1)
