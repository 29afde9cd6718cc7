"""Outputs of a JAX call on the host: by leaf name, and compared with those of another run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from firstdiff.tracer.jax.frontend import is_array
from firstdiff.tracer.jax.reap import on_host
from firstdiff.tracer.jax.tap import join


def leaves_of(result: Any) -> dict[str, np.ndarray]:
    """Arrays of a call's result by leaf name, as in the trace: "" for a single one."""
    pairs, _ = jax.tree_util.tree_flatten_with_path(result)
    return {join("", path): on_host(_numbers(leaf)) for path, leaf in pairs if is_array(leaf)}


def difference(ours: Sequence[Any], plain: Sequence[Any]) -> tuple[bool, float]:
    """Whether two lists of arrays are the same bits, and their largest absolute difference (0 for
    non-numbers)."""
    same, largest = True, 0.0
    for pair in zip(ours, plain, strict=True):
        one, other = (on_host(_numbers(array)) for array in pair)
        if one.dtype == other.dtype and one.tobytes() == other.tobytes():
            continue
        same = False
        distance = np.abs(_wide(one) - _wide(other))
        largest = max(largest, float(np.nanmax(distance, initial=0.0)))
    return same, largest


def _numbers(array: Any) -> Any:
    """``array``; of a random key its bits."""
    is_key = jnp.issubdtype(array.dtype, jax.dtypes.prng_key)
    return jax.random.key_data(array) if is_key else array


def _wide(array: np.ndarray) -> np.ndarray:
    return array if array.dtype.kind == "c" else array.astype(np.float64)
