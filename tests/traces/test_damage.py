"""Damaged files: a `TraceError` or a valid read, never another exception, a crash, or memory beyond the file's size.

In a process of its own: HDF5 is a C library, and a crash in it should fail this test, not end the run.
"""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy as np

    from firstdiff.traces import Key

CHILD = """
import resource, sys, traceback
from pathlib import Path
import numpy as np
from firstdiff.traces import TraceError, open_trace

source, seed, cases, partial = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "1"
whole = np.fromfile(source, np.uint8)
used = np.flatnonzero(np.convolve(whole != 0, np.ones(9), "same"))
rng = np.random.default_rng(seed)
path = source.with_name("damaged.h5" + (".part" if partial else ""))
in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (in_use + (256 << 20), -1))
refused = read = 0
for case in range(cases):
    data = whole.copy()
    kind = rng.integers(5)
    if kind == 0:
        data = data[: rng.integers(len(data))]
    elif kind == 1:
        data[rng.choice(used, rng.integers(1, 30))] = rng.integers(0, 256)
    elif kind == 2:
        start = min(rng.choice(used), len(data) - 8)
        data[start : start + 8] = rng.choice([0, 255], 8) if rng.random() < 0.5 else rng.integers(0, 256, 8)
    else:
        data[rng.choice(used)] ^= 1 << rng.integers(8)
    data.tofile(path)
    try:
        with open_trace(path, partial=partial) as trace:
            for activation in trace.activations:
                trace.values(activation)
            for name in trace.inputs:
                trace.input_values(name)
            for name in trace.tables:
                trace.table(name)
        read += 1
    except TraceError as error:
        assert len(str(error)) < 2000, len(str(error))
        refused += 1
    except BaseException:
        traceback.print_exc()
        print("case", case, "kind", kind, flush=True)
        path.rename(source.with_name(f"case{case}.h5"))
        raise SystemExit(1)
print(refused, "refused,", read, "read")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the limit of memory reads /proc")
@pytest.mark.parametrize("partial", [False, True])
def test_random_damage(
    tmp_path: Path,
    write: Callable[..., Path],
    values: dict[Key, np.ndarray],
    partial: bool,
) -> None:
    for value in values.values():
        value[...] = 0  # bytes that are zero are left alone: the damage goes where structure is
    path = write(tmp_path / "t.h5", finish=not partial)
    arguments = [str(path), "1", "600", str(int(partial))]
    command = [sys.executable, "-W", "error", "-c", CHILD, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    print(done.stdout, done.stderr)
    assert done.returncode == 0, done.stdout + done.stderr
