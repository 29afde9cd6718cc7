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
