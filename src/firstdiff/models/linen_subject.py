"""A linen module and its parameter tree as a subject."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from firstdiff.models.subject import Subject

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flax import linen as nn


def linen_subject(module: nn.Module, parameters: Mapping[str, Any]) -> Subject:
    """``parameters``, a nested tree of arrays, beside ``module``; inputs that are None are left to its defaults."""

    def call(params: Any, **inputs: Any) -> Any:
        arrays = {name: jnp.asarray(value) for name, value in inputs.items() if value is not None}
        return module.apply({"params": params}, **arrays)

    tree = jax.tree.map(jnp.asarray, dict(parameters))
    return Subject(model=tree, call=call, framework="linen", module=module)
