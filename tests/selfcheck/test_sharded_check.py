"""A model on several devices against the same on one: in a process of its own, where the CPU counts as two devices."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

FIRSTDIFF = [sys.executable, "-c", "from firstdiff.cli import main; main()"]
FACTORY = """
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, PartitionSpec as P
import firstdiff

def build(sharded=False):
    weight = jnp.asarray(np.random.default_rng(0).normal(size=(6, 4)), "float32")
    def local(x, weight):
        product = x @ weight
        return {summed} if sharded else product
    def model(weight, x):
        product = local
        if sharded:
            mesh = jax.make_mesh((2,), ("model",), axis_types=(AxisType.Auto,))
            product = jax.shard_map(
                local, mesh=mesh, in_specs=(P(None, "model"), P("model")), out_specs=P(),
                check_vma=False,
            )
        return firstdiff.tap("out", firstdiff.tap("hidden", product(x, weight)) * 2)
    return firstdiff.Subject(model=weight, call=model)
"""


@pytest.mark.parametrize(
    ("summed", "code", "said"),
    [("jax.lax.psum(product, 'model')", 0, "agrees"), ("product", 1, "DIVERGES")],
)
def test_a_sum_over_devices(summed: str, code: int, said: str, tmp_path: Path) -> None:
    (tmp_path / "port.py").write_text(FACTORY.replace("{summed}", summed))
    np.savez(tmp_path / "x.npz", x=np.random.default_rng(1).normal(size=(3, 6)).astype(np.float32))
    command = [*FIRSTDIFF, "selfcheck", "port.py:build", "--inputs", "x.npz"]
    done = subprocess.run(
        [*command, "--only", "sharded against plain"],
        cwd=tmp_path,
        env={**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=2"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert said in done.stdout
    assert code == 0 or "hidden" in done.stdout
