"""Run as a script on 4 host devices: the largest error of each framework under `shard_map` and with
sharded weights, as JSON."""

from __future__ import annotations

import importlib
import json
import os
import sys
from pathlib import Path

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4"
os.environ["KERAS_BACKEND"] = "jax"
sys.path.insert(0, str(Path(__file__).parent))

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from recording import record
from stack import FRAMEWORKS, SHARDED_WAYS, largest_error, stack_input, stack_weights

from firstdiff.tracer.jax.frontend import front_ends_for

_SPECS = {
    "up_w": ("model",),
    "up_w.T": ("model", None),
    "up_b": ("model",),
    "down_w": ("model", None),
}
_SPECS |= {"up_w": (None, "model"), "down_w.T": (None, "model"), "down_b": (None,)}


class Mesh:
    """Two devices for data times two for the model; places weights, and the input."""

    def __init__(self, way: str) -> None:
        kind = AxisType.Explicit if way == "explicit" else AxisType.Auto
        self.mesh = jax.make_mesh((2, 2), ("data", "model"), axis_types=(kind,) * 2)
        self.way = way

    def input(self, x):
        """On an explicit mesh its rows are divided: the products' shardings follow from the types."""
        if self.way != "explicit":
            return x
        return jax.device_put(x, NamedSharding(self.mesh, P(("data", "model"))))

    def __call__(self, name, value):
        if self.way == "shard_map":
            return jnp.asarray(value)
        if self.way == "explicit":
            return jax.device_put(value, NamedSharding(self.mesh, P()))
        spec = _SPECS[name]
        stacked = (None,) * (value.ndim - len(spec))
        return jax.device_put(value, NamedSharding(self.mesh, P(*stacked, *spec)))


def main() -> None:
    weights, x = stack_weights(), stack_input()
    errors = {}
    for framework in FRAMEWORKS:
        for way in SHARDED_WAYS:
            mesh = Mesh(way)
            subject = importlib.import_module(f"stack_{framework}").build(way, weights, mesh)
            arrays = front_ends_for(subject.model)[0].split(subject.model).arrays
            assert way == "shard_map" or all(len(a.sharding.device_set) == 4 for a in arrays)
            recorded = record(subject.model, subject.call, {"x": mesh.input(x)})
            errors[f"{framework} {way}"] = largest_error(recorded, subject, weights, x)
    print(json.dumps(errors))


main()
