"""A killed capture keeps every activation that `write` returned from, bit by bit."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import h5py
import numpy as np
import pytest

from firstdiff.traces import open_trace, recover

if TYPE_CHECKING:
    from pathlib import Path

CHILD = """
import os, sys
import numpy as np
from firstdiff.traces import Header, Key, TraceWriter

path, seed = sys.argv[1], int(sys.argv[2])
rng = np.random.default_rng(seed)
data = rng.integers(0, 256, 1 << 20, dtype=np.uint8)
with TraceWriter(path, Header("torch")) as writer:
    writer.write_input("x", data[:100], dtype="uint8")
    for number in range(1_000_000):
        size = int(2 ** rng.uniform(0, 19))
        value = np.roll(data[:size], number)
        writer.write(Key(f"layers.{number}", "output"), value, dtype="uint8")
        os.write(1, b"%d %d\\n" % (number, size))
"""


def run_and_kill(path: Path, seed: int, delay: float) -> list[int]:
    """Sizes of the activations that a child acknowledged, killed ``delay`` seconds after its first one."""
    command = [sys.executable, "-c", CHILD, str(path), str(seed)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        lines = [child.stdout.readline()]
        timer = time.monotonic() + delay
        while time.monotonic() < timer:
            lines.append(child.stdout.readline())
        child.send_signal(signal.SIGKILL)
        lines += child.stdout.readlines()
    whole = [line for line in lines if line.endswith("\n")]
    return [int(line.split()[1]) for line in whole]


def expected(seed: int, sizes: list[int]) -> list[np.ndarray]:
    data = np.random.default_rng(seed).integers(0, 256, 1 << 20, dtype=np.uint8)
    return [np.roll(data[:size], number) for number, size in enumerate(sizes)]


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL on Windows")
def test_twenty_kills(tmp_path: Path) -> None:
    chance = random.Random(5)
    acknowledged = good = opened_by_h5py = recovered = 0
    for seed in range(20):
        path = tmp_path / f"{seed}.h5"
        sizes = run_and_kill(path, seed, chance.uniform(0, 0.3))
        part = tmp_path / f"{seed}.h5.part"
        values = expected(seed, sizes)
        with open_trace(part, partial=True) as trace:
            assert not trace.complete
            assert len(trace.activations) >= len(sizes)
            good += sum(
                np.array_equal(trace.stored(activation), value)
                for activation, value in zip(trace.activations, values, strict=False)
            )
            places = [activation.place for activation in trace.activations]
        acknowledged += len(sizes)
        with h5py.File(part) as file:
            for place, value in zip(places, values, strict=False):
                assert place is not None
                stop = place.offset + place.nbytes
                assert np.array_equal(file[place.dataset][place.offset : stop], value)
            opened_by_h5py += 1
        with open_trace(recover(part)) as trace:
            assert len(trace.activations) >= len(sizes)
            recovered += 1
        path.unlink()
    print(f"{good} of {acknowledged} acknowledged activations right after 20 kills")
    assert good == acknowledged > 1000
    assert opened_by_h5py == recovered == 20
