"""Wrong versions of what the Mixtral port does, each as small as the mistake. Apart, so that it stays readable."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def route_without_renormalising(logits: jax.Array, top_k: int) -> tuple[jax.Array, jax.Array]:
    """The chosen experts' shares among all experts, which add up to less than one."""
    weights, chosen = jax.lax.top_k(jax.nn.softmax(logits, axis=-1), top_k)
    return weights, chosen


def route_in_bfloat16(logits: jax.Array, top_k: int) -> tuple[jax.Array, jax.Array]:
    """The router's softmax in bfloat16; the reference has it in float32."""
    probabilities = jax.nn.softmax(logits.astype(jnp.bfloat16), axis=-1)
    weights, chosen = jax.lax.top_k(probabilities, top_k)
    return (weights / weights.sum(axis=-1, keepdims=True)).astype(logits.dtype), chosen


def combine_experts_equally(results: jax.Array, weights: jax.Array, chosen: jax.Array) -> jax.Array:
    """The mean of the chosen experts [x, n, e] -> [n, e]; the router's weights are not used."""
    experts = jax.nn.one_hot(chosen, results.shape[0], dtype=results.dtype)  # [n, top_k, x]
    shares = experts.sum(axis=1).T / weights.shape[-1]  # [x, n]
    return jnp.einsum("xn,xne->ne", shares, results)


def route_by_sigmoid(logits: jax.Array, top_k: int) -> tuple[jax.Array, jax.Array]:
    """Shares by sigmoids, as DeepSeek's router has them, not by a softmax."""
    weights, chosen = jax.lax.top_k(jax.nn.sigmoid(logits.astype(jnp.float32)), top_k)
    return weights / weights.sum(axis=-1, keepdims=True), chosen


def combine_experts_summed(results: jax.Array, weights: jax.Array, chosen: jax.Array) -> jax.Array:
    """The sum of the chosen experts [x, n, e] -> [n, e]; the router's weights are not used."""
    del weights
    experts = jax.nn.one_hot(chosen, results.shape[0], dtype=results.dtype)  # [n, top_k, x]
    return jnp.einsum("xn,xne->ne", experts.sum(axis=1).T, results)


def combine_best_expert(results: jax.Array, weights: jax.Array, chosen: jax.Array) -> jax.Array:
    """The first of the chosen experts alone, with its weight; [x, n, e] -> [n, e]."""
    best = jax.nn.one_hot(chosen[:, 0], results.shape[0], dtype=results.dtype)  # [n, x]
    return jnp.einsum("nx,xne->ne", best * weights[:, :1], results).astype(results.dtype)
