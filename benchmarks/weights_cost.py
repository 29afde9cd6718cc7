"""What an audit costs: time against that of reading both checkpoints, and memory. Writes the checkpoints first.

    python benchmarks/weights_cost.py [--size 0.5B] [--folder DIR]

`weights.py` measures how often an audit is right.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from firstdiff.auditing import weights
from firstdiff.models.checkpoint import write_checkpoint
from firstdiff.models.twins import parameters


def cost(size: str, folder: Path) -> list[dict[str, Any]]:
    """Time and peak memory of the audit of two checkpoints on disk, each in a process of its own."""
    for dtype in ("float32", "bfloat16"):
        if not (folder / f"{size}-{dtype}").is_dir():
            write_checkpoint(folder / f"{size}-{dtype}", config=size, dtype=dtype)
    rows = []
    for ours, theirs in (("float32", "float32"), ("float32", "bfloat16"), ("bfloat16", "bfloat16")):
        command = [
            sys.executable,
            __file__,
            "--one",
            str(folder / f"{size}-{ours}"),
            str(folder / f"{size}-{theirs}"),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        rows.append({"size": size, "reference": ours, "port": theirs, **json.loads(done.stdout)})
    return rows


def one(reference: Path, port: Path) -> dict[str, Any]:
    """CPU and wall seconds of reading both files once, then of auditing them; peak resident memory in MB."""
    files = [folder / "model.safetensors" for folder in (reference, port)]
    _read(files)  # both are in the page cache for both measurements
    wall, cpu = time.perf_counter(), time.process_time()
    _read(files)
    reading = time.perf_counter() - wall, time.process_time() - cpu
    weights(*_tiny())  # imports and the compiled kernel are loaded once, not per checkpoint
    wall, cpu = time.perf_counter(), time.process_time()
    result = weights(reference, port)
    took = time.perf_counter() - wall, time.process_time() - cpu
    peak = next(
        int(line.split()[1])
        for line in Path("/proc/self/status").read_text().splitlines()
        if "VmHWM" in line
    )
    return {
        "gigabytes": round(sum(f.stat().st_size for f in files) / 1e9, 2),
        "read wall/cpu": [round(t, 2) for t in reading],
        "audit wall/cpu": [round(t, 2) for t in took],
        "cpu ratio": round(took[1] / reading[1], 1),
        "peak MB": peak // 1024,
        "right": f"{result.right}/{result.parameters}",
        "load": Path("/proc/loadavg").read_text().split()[0],
    }


def _tiny() -> tuple[Any, Any]:
    values = {"a.weight": np.random.default_rng(0).normal(size=(1024, 1100)).astype(np.float32)}
    return parameters(values), parameters(values)


def _read(files: list[Path]) -> None:
    buffer = bytearray(1 << 24)
    for file in files:
        with file.open("rb", buffering=0) as handle:
            while handle.readinto(buffer):
                pass


def main() -> None:
    """Print JSON, a line each pair of dtypes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", action="append")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--one", type=Path, nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(one(*options.one)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        for size in options.size or ["0.5B"]:
            for row in cost(size, options.folder or Path(scratch)):
                print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
