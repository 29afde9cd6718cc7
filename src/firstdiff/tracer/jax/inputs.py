"""Model inputs of no framework, as JAX takes them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax.numpy as jnp

if TYPE_CHECKING:
    import numpy as np


def jax_input(value: np.ndarray, dtype: str) -> np.ndarray:
    """A storage array with its logical dtype: bits become bfloat16 or float8 as ml_dtypes has them.

    It stays on the host; int64 becomes int32 when JAX takes it without x64, as for any caller.
    """
    return value if value.dtype.name == dtype else value.view(jnp.dtype(dtype))
