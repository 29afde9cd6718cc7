"""What writing a trace costs, against `os.write` of the same bytes: ratios of CPU time, each pair measured in turn.

    python benchmarks/write.py [--rounds 5] [--directory DIR]

Bars: at most 1.25 for tensors of megabytes and 2.5 for tensors of 1-4 KB, digests off. With digests on the cost of
the arithmetic comes on top; it is reported beside.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from firstdiff.traces import Header, Key, TraceWriter

Tensors = list[np.ndarray]


def large_tensors() -> Tensors:
    """64 float32 tensors of 3.5 MB: 448 tokens of a layer of 2048 features."""
    rng = np.random.default_rng(0)
    pool = [rng.standard_normal((448, 2048), dtype=np.float32) for _ in range(8)]
    return pool * 8


def small_tensors() -> Tensors:
    """20,000 float32 tensors of 1-4 KB."""
    rng = np.random.default_rng(0)
    return [
        rng.standard_normal(int(size), dtype=np.float32) for size in rng.integers(256, 1025, 20_000)
    ]


def write_raw(tensors: Tensors, path: Path) -> None:
    """The limit: one `os.write` a tensor, and `os.fsync`, as at the end of a capture."""
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    for tensor in tensors:
        os.write(descriptor, tensor.data)
    os.fsync(descriptor)
    os.close(descriptor)


def write_trace(tensors: Tensors, keys: list[Key], path: Path, *, digest: bool) -> None:
    """What a capture does with them, finish included."""
    with TraceWriter(path, Header("torch"), digest=digest) as writer:
        for key, tensor in zip(keys, tensors, strict=True):
            writer.write(key, tensor, dtype="float32", class_name="Qwen2MLP")
        writer.finish()


def cpu_seconds(write: Callable[[Path], None], directory: Path) -> float:
    """CPU time, user and system, of writing one file."""
    path = directory / "written"
    start = time.process_time()
    write(path)
    spent = time.process_time() - start
    path.unlink()
    return spent


def report(name: str, tensors: Tensors, bar: float, directory: Path, rounds: int) -> None:
    """Print the median ratio of paired runs, digests off and on."""
    keys = [Key(f"model.layers.{number}.mlp", "output") for number in range(len(tensors))]
    for digest in (False, True):
        ours = partial(write_trace, tensors, keys, digest=digest)
        raws = partial(write_raw, tensors)
        pairs = [
            (cpu_seconds(raws, directory), cpu_seconds(ours, directory)) for _ in range(rounds)
        ]
        ratio = statistics.median(trace / raw for raw, trace in pairs)
        raw, trace = (
            statistics.median(side) * 1e6 / len(tensors) for side in zip(*pairs, strict=True)
        )
        told = f"bar {bar:.2f}" if not digest else "no bar"
        print(
            f"{name:<14} digests {'on ' if digest else 'off'}  {ratio:6.2f}x ({told})"
            f"   {raw:8.1f} -> {trace:8.1f} us a tensor"
        )


def main() -> None:
    """Run all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--directory", type=Path, default=None)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.directory) as directory:
        for name, tensors, bar in (
            ("large, 3.5 MB", large_tensors(), 1.25),
            ("small, 1-4 KB", small_tensors(), 2.5),
        ):
            report(name, tensors, bar, Path(directory), arguments.rounds)


if __name__ == "__main__":
    main()
