"""What a JAX run depends on besides its program: device, versions, precision switches,
parameters."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any

import jax

_PACKAGES = ("jax", "jaxlib", "flax", "haiku", "equinox", "keras")
_SWITCHES = {
    "matmul_precision": "jax_default_matmul_precision",
    "x64": "jax_enable_x64",
    "dtype_promotion": "jax_numpy_dtype_promotion",
    "prng": "jax_default_prng_impl",
}


def versions() -> dict[str, str]:
    """Versions of jax, jaxlib and the model frameworks that are imported."""
    found = {name: getattr(sys.modules.get(name), "__version__", None) for name in _PACKAGES}
    return {name: str(version) for name, version in found.items() if version is not None}


def precision(*, exact: bool, mode: str) -> dict[str, Any]:
    """Every switch that changes arithmetic. `excess_precision`: XLA may keep bfloat16 in float32
    inside a fusion."""
    values = {name: getattr(jax.config, option, None) for name, option in _SWITCHES.items()}
    switches = {
        name: value
        if value is None or isinstance(value, bool)
        else str(getattr(value, "value", value))
        for name, value in values.items()
    }
    return {**switches, "excess_precision": mode == "jit" and not exact}


def device_name(arrays: Sequence[Any]) -> str:
    """Where the parameters lie, else the default device: `cpu`, `NVIDIA H100`, `4 x TPU v5e`."""
    held = [array for array in arrays if isinstance(array, jax.Array)]
    devices = sorted(held[0].devices(), key=lambda d: d.id) if held else [jax.devices()[0]]
    kind = devices[0].device_kind
    name = kind if devices[0].platform in ("tpu", "gpu", "cuda", "rocm") else devices[0].platform
    return name if len(devices) == 1 else f"{len(devices)} x {name}"


def parameter_facts(arrays: Sequence[Any]) -> tuple[int, str]:
    """Number of elements, and the dtype of most of them."""
    sizes: Counter[str] = Counter()
    for array in arrays:
        sizes[str(array.dtype)] += int(array.size)
    return sizes.total(), max(sizes, key=sizes.__getitem__, default="")
