"""Cost of the main job at a published size: capture both sides and diff, beside the plain forward.

    python benchmarks/published.py --size 0.5B --tokens 128

Each step is a process of its own. CPU seconds are of the step without loading the model, after one that warmed the
process up in the same way: a forward before a forward, a capture before a capture. Beside them the multiple of the
plain forward. Memory is the peak resident size of its process. Weights are drawn, so no download is needed; 0.5B takes
about 2 GB of disk. On a machine that is busy, OMP_NUM_THREADS=1 keeps threads that wait from being counted.
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
from pathlib import Path
from typing import Any

import numpy as np

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def inputs_of(tokens: int, vocabulary: int) -> dict[str, np.ndarray]:
    """Two rows would double the cost: one row of drawn ids."""
    ids = np.random.default_rng(0).integers(1, vocabulary, (1, tokens))
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


@contextmanager
def timed(name: str, times: dict[str, float]) -> Iterator[None]:
    """CPU seconds of the block, under ``name``."""
    began = time.process_time()
    yield
    times[name] = round(time.process_time() - began, 2)


def torch_plain(folder: Path, tokens: int, times: dict[str, float]) -> None:
    """One forward pass without hooks, after a warm-up."""
    import torch

    from firstdiff.models.loading import load_subject

    subject = load_subject(f"hf:{folder / 'checkpoint'}")
    given = {
        k: torch.from_numpy(v) for k, v in inputs_of(tokens, subject.config["vocab_size"]).items()
    }
    with torch.no_grad():
        subject.model(**given, use_cache=False)
        with timed("forward", times):
            subject.model(**given, use_cache=False)


def torch_capture(folder: Path, tokens: int, times: dict[str, float], floor: Any = ()) -> None:
    """The reference's trace."""
    from firstdiff.models.loading import load_subject
    from firstdiff.recording import record

    subject = load_subject(f"hf:{folder / 'checkpoint'}")
    given = inputs_of(tokens, subject.config["vocab_size"])
    options: dict[str, Any] = {"inputs": given, "verify": False, "force": True}
    record(subject, folder / "ref.h5", floor=(), **options)
    with timed("capture", times):
        record(subject, folder / "ref.h5", floor=floor, **options)


def jax_plain(folder: Path, tokens: int, times: dict[str, float]) -> None:
    """The jitted port: compilation, then one warm call."""
    import jax

    from firstdiff.models import qwen2

    subject = qwen2.subject("linen", folder / "checkpoint")
    given = inputs_of(tokens, subject.config["vocab_size"])
    call = jax.jit(subject.call)
    with timed("compile and first call", times):
        jax.block_until_ready(call(subject.model, **given))
    with timed("forward", times):
        jax.block_until_ready(call(subject.model, **given))


def jax_capture(folder: Path, tokens: int, times: dict[str, float]) -> None:
    """The port's trace."""
    from firstdiff.models import qwen2
    from firstdiff.recording import record

    subject = qwen2.subject("linen", folder / "checkpoint")
    with timed("capture", times):
        given = inputs_of(tokens, subject.config["vocab_size"])
        record(subject, folder / "port.h5", inputs=given, floor=(), verify=False, force=True)


def compare(folder: Path, _tokens: int, times: dict[str, float]) -> None:
    """The two traces."""
    from firstdiff.diff import diff

    with timed("diff", times):
        found = diff(folder / "ref.h5", folder / "port.h5")
    times["exit code"] = found.exit_code


STEPS: dict[str, Callable[..., None]] = {
    "torch, plain": torch_plain,
    "torch, capture": torch_capture,
    "torch, capture with both floors": lambda *given: torch_capture(*given, floor=None),
    "jax, plain": jax_plain,
    "jax, capture": jax_capture,
    "diff": compare,
}


def run_step(name: str, folder: Path, tokens: int) -> None:
    """In the child: do the step and print what it cost."""
    times: dict[str, float] = {}
    STEPS[name](folder, tokens, times)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(json.dumps({"cpu_seconds": times, "peak_gb": round(peak, 2)}))


def multiples(step: str, told: str, forwards: dict[str, float]) -> str:
    """What a step cost as a multiple of its framework's plain forward, which is remembered in ``forwards``."""
    try:
        times = json.loads(told)["cpu_seconds"]
    except ValueError:
        return ""
    framework = step.partition(",")[0]
    if "forward" in times:
        forwards[framework] = times["forward"]
        return ""
    plain = forwards.get(framework)
    shown = [f"{name} {spent / plain:.2f}x" for name, spent in times.items()] if plain else []
    return f"({', '.join(shown)} the forward)" if shown else ""


def main() -> None:
    """Run every step in a process of its own and print one line each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="0.5B")
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--step", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help="keep the checkpoint and the traces here")
    options = parser.parse_args()
    if options.step:
        run_step(options.step, options.folder, options.tokens)
        return
    from firstdiff.models.checkpoint import write_checkpoint

    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or Path(scratch)
        if not (folder / "checkpoint" / "config.json").exists():
            write_checkpoint(folder / "checkpoint", config=options.size)
        forwards: dict[str, float] = {}
        for step in STEPS:
            command = [sys.executable, __file__, "--step", step, "--folder", str(folder)]
            command += ["--tokens", str(options.tokens)]
            done = subprocess.run(command, capture_output=True, text=True)
            told = done.stdout.strip() or done.stderr.strip()[-400:]
            print(f"{step:34s}", told, multiples(step, done.stdout, forwards), flush=True)
        for trace in ("ref.h5", "port.h5"):
            print(f"{trace:34s} {(folder / trace).stat().st_size / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
