"""Diff of two traces against reading both, by CPU time in one run: what the bar "<= 2.1x of reading both arrays" means.

    python benchmarks/diff.py [--size MiB] [--rounds N] [--numpy]

The base sums both files' mapped bytes as 64-bit words, compiled, one thread. Every round measures base and diff one
after the other; the median of the ratios counts.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import numpy as np
from numba import njit

from firstdiff.diff import diff
from firstdiff.diff.layout import identity
from firstdiff.diff.measure import Side, measure
from firstdiff.traces import Header, Key, Trace, TraceWriter, open_trace

if TYPE_CHECKING:
    from collections.abc import Callable

SHAPE = (1, 512, 2816)
INPUT = np.arange(512)[None]


@njit(nogil=True, fastmath={"reassoc"})  # type: ignore[misc]  # numba has no types
def word_sum(words: np.ndarray) -> np.uint64:
    """Sum of 64-bit words, so that every byte is read once."""
    total = np.uint64(0)
    for i in range(words.shape[0]):
        total += words[i]
    return total


def write(path: Path, size: int, dtype: str, error: float) -> Path:
    """A trace of ``size`` MiB of one-layer activations; ``error`` is the relative noise on them."""
    header = Header("torch", dtype=dtype)
    with TraceWriter(path, header) as writer:
        writer.write_input("input_ids", INPUT, dtype="int64")
        nbytes = np.prod(SHAPE) * (2 if dtype == "bfloat16" else 4)
        for number in range(max(1, round(size * 2**20 / nbytes))):
            rng = np.random.default_rng(number)
            value = rng.standard_normal(SHAPE, dtype=np.float32)
            value *= 1 + np.float32(error) * np.random.default_rng(
                -number - 1 + 2**31
            ).standard_normal(SHAPE, dtype=np.float32)
            if dtype == "bfloat16":
                value = (value.view(np.uint32) >> 16).astype(np.uint16)
            writer.write(Key(f"layers.{number}.mlp", "output"), value, dtype=dtype)
        return writer.finish()


def cpu(work: Callable[[], object]) -> float:
    """CPU seconds of this process that ``work`` takes."""
    start = time.process_time()
    work()
    return time.process_time() - start


def read(*traces: Trace) -> None:
    """The base: every byte of every activation once."""
    for trace in traces:
        for activation in trace.activations:
            word_sum(trace.stored(activation).reshape(-1).view(np.uint64))


def measure_all(reference: Trace, port: Trace, *, compiled: bool) -> None:
    """All statistics of every pair, without aligning or judging."""
    for one, other in zip(reference.activations, port.activations, strict=True):
        sides = Side(reference.stored(one), one.dtype), Side(port.stored(other), other.dtype)
        measure(*sides, identity(one.shape), compiled=compiled)


def main() -> None:
    """Print one line a dtype and kernel."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=200, help="MiB a trace")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--numpy", action="store_true", help="also without numba, which is slow")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for dtype in ("float32", "bfloat16"):
            files = [
                write(Path(folder) / f"{dtype}{n}.h5", options.size, dtype, n * 1e-6)
                for n in (0, 1)
            ]
            with open_trace(files[0]) as one, open_trace(files[1]) as other:
                report(dtype, one, other, options.rounds, with_numpy=options.numpy)


def report(dtype: str, one: Trace, other: Trace, rounds: int, *, with_numpy: bool) -> None:
    """The ratios of one pair of traces."""
    works: dict[str, Callable[[], object]] = {
        "statistics, numba": lambda: measure_all(one, other, compiled=True),
        "diff, end to end, numba": lambda: diff(one, other, compiled=True),
        "diff of equal traces": lambda: diff(one, one),
    }
    if with_numpy:
        works["statistics, numpy"] = lambda: measure_all(one, other, compiled=False)
    read(one, other)
    for name, work in works.items():
        work()
        ratios = [
            (base := cpu(lambda: read(one, other))) and cpu(work) / base for _ in range(rounds)
        ]
        print(
            f"{dtype:9} {name:24} {median(ratios):6.2f}x of reading both  [{min(ratios):.2f} {max(ratios):.2f}]"
        )


if __name__ == "__main__":
    main()
