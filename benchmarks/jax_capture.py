"""What a capture costs: CPU time of the jitted call with and without it, per framework, and memory.

About 20 million parameters (width 512, 6 layers, 128 tokens): `python benchmarks/jax_capture.py [--framework NAME]`.

The call with all taps and the plain call run in turn, in one process; the ratio is that of the medians of the process's
CPU time, so that a shared machine does not count. Copying to the host and writing the trace are apart. Memory is the
peak of a child process that does one thing only.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import jax
import jax.numpy as jnp
import numpy as np

from firstdiff.recorders import event_writer
from firstdiff.tracer.jax.capture import capture_jax
from firstdiff.tracer.jax.emission import Emission
from firstdiff.tracer.jax.recording import Recording
from firstdiff.traces import Header, TraceWriter
from stacks import STACKS, tokens

REPEATS = 9
MEMORY = ("plain", "capture", "passes", "stream")


def measured(framework: str) -> Iterator[str]:
    """Lines of the report: ratios of CPU time."""
    model, call = STACKS[framework]()
    inputs = {"x": tokens()}
    recording = Recording(model, call, lambda _event: None, framework=framework)
    given = recording._tracing.given(inputs)
    program, (run,) = recording._program(given)
    plain = recording._tracing.plain

    def captured() -> None:
        run(given.arrays, {})

    def alone() -> None:
        jax.block_until_ready(plain(given, mode="jit", exact=False))

    with_taps, without = in_turn(captured, alone)
    _outputs, facts, taken = run(given.arrays, {})
    selected = recording._fired(program, facts)
    count = sum(int(array.size) for array in given.model.arrays)
    host = lowest(lambda: Emission(lambda _e: None).give_all(selected, run.wanted, dict(taken)))
    with tempfile.TemporaryDirectory() as folder:
        written = lowest(lambda: write(folder, selected, run.wanted, dict(taken)))
    yield (
        f"{framework:9} {count / 1e6:5.1f}M parameters, {len(selected)} activations: "
        f"call with capture / without {with_taps / without:.3f} ({with_taps * 1e3:.0f} / {without * 1e3:.0f} ms); "
        f"to the host {host / without:.3f}, to the host and written {written / without:.3f} of the plain call"
    )


def write(folder: str, selected: Any, wanted: Any, taken: dict[int, Any]) -> None:
    """Write one trace of ``taken``."""
    with TraceWriter(Path(folder) / "a.h5", Header(framework="jax"), overwrite=True) as writer:
        Emission(event_writer(writer)).give_all(selected, wanted, taken)
        writer.finish()


def in_turn(one: Callable[[], None], other: Callable[[], None]) -> tuple[float, float]:
    """Median CPU seconds of each, run in turn after a warm-up."""
    one()
    other()
    times = [(cpu(one), cpu(other)) for _ in range(REPEATS)]
    return tuple(np.median(times, axis=0))  # type: ignore[return-value]  # two columns


def lowest(work: Callable[[], None]) -> float:
    """Lowest CPU seconds of three runs."""
    return min(cpu(work) for _ in range(3))


def cpu(work: Callable[[], None]) -> float:
    """CPU seconds of this process, all threads."""
    began = time.process_time()
    work()
    return time.process_time() - began


def memory(framework: str, what: str) -> None:
    """Print this process's resident bytes when the model was made, and its peak in ``what``."""
    model, call = STACKS[framework]()
    inputs = {"x": jnp.tile(tokens(), (16, 1, 1))}
    jax.block_until_ready(model if framework not in ("nnx", "keras") else inputs)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = resident("VmRSS")
    if what == "plain":
        recording = Recording(model, call, lambda _e: None, framework=framework)
        jax.block_until_ready(
            recording._tracing.plain(recording._tracing.given(inputs), mode="jit", exact=False)
        )
    else:
        options = {"passes": 4} if what == "passes" else {"stream": what == "stream"}
        capture_jax(
            model, call, inputs, sink=lambda _e: None, verify=False, framework=framework, **options
        )
    print(json.dumps([before, resident("VmHWM")]))


def resident(field: str) -> int:
    """Resident bytes of this process: `VmRSS` now, `VmHWM` at most. Linux."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(field))
    return int(line.split()[1]) * 1024


def main() -> None:
    """Print the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--framework", choices=STACKS, action="append")
    parser.add_argument("--memory", choices=MEMORY, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    chosen = asked.framework or list(STACKS)
    if asked.memory:
        memory(chosen[0], asked.memory)
        return
    for framework in chosen:
        for line in measured(framework):
            print(line, flush=True)
    for what in MEMORY:
        command = [sys.executable, __file__, "--framework", chosen[0], "--memory", what]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        before, after = json.loads(done.stdout.splitlines()[-1])
        print(
            f"memory, {chosen[0]}, 16 rows, {what:8}: {(after - before) / 1e6:6.0f} MB above the model"
        )


if __name__ == "__main__":
    main()
