"""Cost of replay beside the plain forward, at 20M parameters and at the published 0.5B shape.

    nice -n 10 python benchmarks/replay_cost.py --tokens 128

Each step is a process of its own, with one thread: threads that wait for each other are counted as if they worked, on
a busy machine several times over. CPU seconds are of the step without loading the model, memory is the peak resident
size of its process (the model's parameters included). A forced pass is traced and compiled anew, so it stands beside
compilation and first call of the plain forward. Weights are drawn; 0.5B takes about 3 GB of disk.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


@contextmanager
def timed(name: str, times: dict[str, Any]) -> Iterator[None]:
    """CPU seconds of the block, under ``name``."""
    began = time.process_time()
    yield
    times[name] = round(time.process_time() - began, 2)


def inputs_of(folder: Path, tokens: int) -> dict[str, np.ndarray]:
    """One row of drawn ids."""
    vocabulary = json.loads((folder / "checkpoint" / "config.json").read_text())["vocab_size"]
    ids = np.random.default_rng(0).integers(1, vocabulary, (1, tokens))
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


def reference(folder: Path, tokens: int, times: dict[str, Any]) -> None:
    """The reference's trace with its floors, unless it is there."""
    from firstdiff.recording import record

    if not (folder / "ref.h5").exists():
        with timed("capture with floors", times):
            given = inputs_of(folder, tokens)
            record(
                f"hf:{folder / 'checkpoint'}",
                folder / "ref.h5",
                inputs=given,
                floor=("float32",),
                verify=False,
            )


def plain(folder: Path, tokens: int, times: dict[str, Any]) -> None:
    """The jitted port: compilation, then one warm call."""
    import jax

    from firstdiff.models import qwen2

    subject = qwen2.subject("linen", folder / "checkpoint")
    given = inputs_of(folder, tokens)
    count = sum(int(np.size(leaf)) for leaf in jax.tree_util.tree_leaves(subject.model))
    times["parameters"] = f"{count / 1e6:.1f}M"
    call = jax.jit(subject.call)  # type: ignore[arg-type]  # a port of ours has a call
    with timed("compile and first call", times):
        jax.block_until_ready(call(subject.model, **given))
    with timed("warm call", times):
        jax.block_until_ready(call(subject.model, **given))


def capture(folder: Path, _tokens: int, times: dict[str, Any]) -> None:
    """The port's own trace, and its comparison with the reference's."""
    from firstdiff.diff import diff
    from firstdiff.models import qwen2
    from firstdiff.recording import record

    subject = qwen2.subject("linen", folder / "checkpoint")
    with timed("capture, compilation included", times):
        record(
            subject, folder / "port.h5", inputs=folder / "ref.h5", verify=False, floor=(),
            force=True, weights=False,
        )  # fmt: skip
    with timed("diff", times):
        times["exit code"] = diff(folder / "ref.h5", folder / "port.h5").exit_code


def port_replay(folder: Path, _tokens: int, times: dict[str, Any]) -> None:
    """The reference's values planted in the port: one pass."""
    from firstdiff.diff import diff
    from firstdiff.models import qwen2
    from firstdiff.port_replay import replay_port

    subject = qwen2.subject("linen", folder / "checkpoint")
    free = folder / "port.h5", diff(folder / "ref.h5", folder / "port.h5")
    with timed("one forced pass, compilation and judging included", times):
        found = replay_port(folder / "ref.h5", subject, free=free)
    told(found, times)


def reference_replay(folder: Path, _tokens: int, times: dict[str, Any]) -> None:
    """The port's values forced into the reference: three passes."""
    from firstdiff.recording import as_subject
    from firstdiff.reference_replay import replay_reference

    subject = as_subject(f"hf:{folder / 'checkpoint'}", "float32")
    with timed("capture and three forced passes, judging included", times):
        found = replay_reference(subject, folder / "port.h5")
    told(found, times)


def told(found: Any, times: dict[str, Any]) -> None:
    """What a replay found, and how much it put in."""
    times["planted"] = f"{found.cost.planted} values, {found.cost.nbytes / 1e6:.0f} MB"
    times["faults"] = len(found.faults)
    times["worst"] = round(found.worst.row.verdict.score, 2)


ONE_THREAD = {"OMP_NUM_THREADS": "1", "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false"}
STEPS: dict[str, Callable[[Path, int, dict[str, Any]], None]] = {
    "reference": reference,
    "plain forward": plain,
    "capture and diff": capture,
    "port replay": port_replay,
    "reference replay": reference_replay,
}


def checkpoint_of(size: str, folder: Path) -> None:
    """Draw the weights unless they are there."""
    from firstdiff.models.checkpoint import write_checkpoint
    from firstdiff.models.qwen2 import PUBLISHED, TINY

    if (folder / "checkpoint" / "config.json").exists():
        return
    small = replace(
        TINY, vocab_size=8192, hidden_size=384, intermediate_size=1536, num_hidden_layers=8,
        num_attention_heads=6, num_key_value_heads=2, head_dim=64,
    )  # fmt: skip
    write_checkpoint(folder / "checkpoint", config=PUBLISHED.get(size, small))


def main() -> None:
    """Run every step in a process of its own and print one line each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="*", default=["20M", "0.5B"])
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--folder", type=Path, help="checkpoint and traces of one size lie here")
    parser.add_argument("--step", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        times: dict[str, Any] = {}
        STEPS[options.step](options.folder, options.tokens, times)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        print(json.dumps({**times, "peak GB": round(peak, 2)}))
        return
    for size in options.sizes:
        with tempfile.TemporaryDirectory() as scratch:
            folder = options.folder or Path(scratch)
            checkpoint_of(size, folder)
            for step in STEPS:
                command = [sys.executable, __file__, "--step", step, "--folder", str(folder)]
                command += ["--tokens", str(options.tokens)]
                environment = {**os.environ, **ONE_THREAD}
                done = subprocess.run(command, capture_output=True, text=True, env=environment)
                said = done.stdout.strip() or done.stderr.strip()[-400:]
                print(f"{size} {step:18s} {said}", flush=True)


if __name__ == "__main__":
    main()
