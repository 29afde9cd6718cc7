"""Self-checks of right ports, and of ports with the class of mistakes that each check is there for.

    python benchmarks/selfcheck.py [--ports linen nnx function] [--dtypes float32 bfloat16] [--seeded]

Right ports must agree in every check that applies; each seeded mistake must be found by its check, with the place where
it first shows. Two CPU devices are made for the sharded check. About two minutes of CPU a port.
"""

from __future__ import annotations

import argparse
import itertools
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["XLA_FLAGS"] = (
    f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=2"
)

import jax
import jax.numpy as jnp
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from firstdiff.models import qwen2
from firstdiff.models.checkpoint import discriminating_inputs, write_checkpoint
from firstdiff.models.decoding_faults import DECODING_FAULTS
from firstdiff.models.fault import Fault
from firstdiff.models.faults import FAULTS
from firstdiff.models.qwen2 import ops
from firstdiff.selfchecking import selfcheck

if TYPE_CHECKING:
    from collections.abc import Callable

    from firstdiff.models.subject import Subject

WHOLE = ("linen", "nnx", "function")


def fault(name: str, **functions: Callable[..., Any]) -> Fault:
    """A mistake in some functions of `ops`."""
    return Fault(name, "", "", "", "", functions=functions)


def counting() -> Callable[..., Any]:
    """An activation that depends on how often Python ran it: under jit, on how often it was traced."""
    calls = itertools.count()
    return lambda x: ops.silu(x) * (1 + 0.01 * next(calls))


def batch_norm(x: Any, scale: Any, eps: float) -> Any:
    """A norm that takes the mean of the batch away."""
    return ops.rms_norm(x - 0.1 * x.mean(axis=0, keepdims=True), scale, eps)


def token_norm(x: Any, scale: Any, eps: float) -> Any:
    """A norm with statistics over all tokens, padding included."""
    wide = x.astype(jnp.float32)
    variance = jnp.mean(wide * wide, axis=(-1, -2), keepdims=True)
    return scale * (wide * jax.lax.rsqrt(variance + eps)).astype(x.dtype)


def narrow_tables(positions: Any, frequencies: Any, scaling: float, dtype: str) -> Any:
    """Rotary angles in the dtype of the run, far into a text: bfloat16 knows every fourth position there."""
    angles = (positions + 1000)[..., None].astype(dtype) * jnp.asarray(frequencies, dtype)
    angles = jnp.concatenate([angles, angles], axis=-1)
    return jnp.cos(angles) * scaling, jnp.sin(angles) * scaling


def seen_beyond(input_ids: Any, attention_mask: Any, written: Any, dtype: str) -> Any:
    """The mask of a cache that shows places which are not written yet."""
    return ops.cached_mask(input_ids, attention_mask | 1, written + 99, dtype)


def sharded_norm(*, summed: bool) -> Callable[..., Any]:
    """A norm over channels that lie on two devices; without the sum over devices each sees its own half."""
    mesh = jax.make_mesh((2,), ("model",), axis_types=(AxisType.Auto,))

    def local(x: Any, scale: Any, eps: float) -> Any:
        wide = x.astype(jnp.float32)
        variance = jnp.mean(wide * wide, axis=-1, keepdims=True)
        variance = jax.lax.pmean(variance, "model") if summed else variance
        return scale * (wide * jax.lax.rsqrt(variance + eps)).astype(x.dtype)

    def norm(x: Any, scale: Any, eps: float) -> Any:
        spec = P(*[None] * (x.ndim - 1), "model")
        mapped = jax.shard_map(
            lambda x, scale: local(x, scale, eps), mesh=mesh, in_specs=(spec, P("model")),
            out_specs=spec,
        )  # fmt: skip
        return mapped(x, scale)

    return norm


SEEDS: dict[str, tuple[str, Callable[[], Fault], tuple[str, ...]]] = {
    "run twice": ("Python state in the activation", lambda: fault("a", silu=counting()), WHOLE),
    "jit against eager": ("the same", lambda: fault("b", silu=counting()), WHOLE),
    "batch against single rows": (
        "a norm that takes the batch's mean away", lambda: fault("c", rms_norm=batch_norm), WHOLE,
    ),
    "left padding against none": (
        "padding that stays visible", lambda: FAULTS["padding_ignored"], WHOLE,
    ),
    "right padding against none": (
        "norm statistics over the tokens", lambda: fault("e", rms_norm=token_norm), WHOLE,
    ),
    "prefill against decoding": (
        "keys and values written one place late", lambda: DECODING_FAULTS["cache_one_late"],
        ("linen",),
    ),
    "no cache against prefill": (
        "places of the cache seen before they are written",
        lambda: fault("g", cached_mask=seen_beyond), ("linen",),
    ),
    "float32 against bfloat16": (
        "rotary angles in the dtype of the run", lambda: fault("h", rotary_tables=narrow_tables),
        WHOLE,
    ),
    "scan against plain": (
        "another activation where layers are scanned", lambda: FAULTS["relu_for_silu"], WHOLE,
    ),
    "sharded against plain": (
        "a norm without the sum over devices",
        lambda: fault("j", rms_norm=sharded_norm(summed=False)), WHOLE,
    ),
}  # fmt: skip
"""By check: the mistake in words, how it is made, and the ports that it applies to."""


def build(dtype: str | None = None, scan: bool = False, sharded: bool = False) -> Subject:
    """The port of the environment: `SELFCHECK_PORT`, with the mistake of `SELFCHECK_SEED` where that is not empty."""
    seed, chosen = os.environ["SELFCHECK_SEED"], None
    variant = {"scan against plain": scan, "sharded against plain": sharded}
    if sharded and not seed:
        chosen = fault("sharded", rms_norm=sharded_norm(summed=True))
    if seed and variant.get(seed, True):
        chosen = SEEDS[seed][1]()
    return qwen2.subject(
        os.environ["SELFCHECK_PORT"], os.environ["SELFCHECK_CHECKPOINT"], fault=chosen, scan=scan,
        dtype=dtype or os.environ["SELFCHECK_DTYPE"],
    )  # fmt: skip


def main() -> None:
    """Every port in every dtype."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ports", nargs="*", default=list(WHOLE))
    parser.add_argument("--dtypes", nargs="*", default=["float32", "bfloat16"])
    parser.add_argument("--seeded", action="store_true", help="the mistakes, not the right ports")
    parser.add_argument("--only", nargs="*", default=list(SEEDS))
    options = parser.parse_args()
    inputs, spec = discriminating_inputs(), f"{Path(__file__).resolve()}:build"
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SELFCHECK_CHECKPOINT"] = str(write_checkpoint(Path(folder) / "checkpoint"))
        for port, dtype in itertools.product(options.ports, options.dtypes):
            os.environ |= {
                "SELFCHECK_PORT": port,
                "SELFCHECK_DTYPE": dtype,
                "SELFCHECK_SEED": "",
            }
            if not options.seeded:
                for row in selfcheck(spec, inputs=inputs, only=options.only).rows:
                    print(f"{port} {dtype} | {row.name} | {row.outcome} | {row.detail}", flush=True)
                continue
            for check in options.only:
                words, _, ports = SEEDS[check]
                if port not in ports:
                    continue
                os.environ["SELFCHECK_SEED"] = check
                (row,) = selfcheck(spec, inputs=inputs, only=[check]).rows
                print(
                    f"{port} {dtype} | {check} | {words} | {row.outcome} | {row.detail}", flush=True
                )


if __name__ == "__main__":
    main()
