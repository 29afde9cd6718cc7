"""Bisect over the catalogue of seeded faults: is the place named, in how many runs, with how many activations read?

    nice -n 10 python benchmarks/bisection.py --dtypes float32 bfloat16        # about 20 minutes of CPU, one core
    nice -n 10 python benchmarks/bisection.py --deep 24 96                     # runs and readings by depth alone

Each fault is searched for in a port that is run, and in two traces. A fault is placed when its activation is the one
named; a harmless one when the result is said to agree. A fault that leaves the result within its floor has no effect
to search for, and is counted apart.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from firstdiff.bisecting import bisect
from firstdiff.models import qwen2
from firstdiff.models.checkpoint import discriminating_inputs, write_checkpoint
from firstdiff.models.faults import FAULTS, Fault
from firstdiff.recording import as_subject, record
from firstdiff.traces import open_trace

if TYPE_CHECKING:
    from firstdiff.diff.bisection import Bisection


@dataclass
class Tally:
    """Results of one kind of search."""

    placed: int = 0
    """Named right."""
    without: list[str] = field(default_factory=list)
    """Faults that leave the result within its floor."""
    missed: list[str] = field(default_factory=list)
    """The others, with what was named instead."""
    runs: Counter[int] = field(default_factory=Counter)
    """How often the port ran, by number of faults."""
    read: list[int] = field(default_factory=list)
    """Activations compared."""

    def add(self, fault: Fault, found: Bisection) -> None:
        """One search."""
        first = found.first
        place = (first.name, first.key.site) if first is not None else None
        if fault.harmless and found.exit_code == 0:
            self.placed += 1
        elif found.exit_code == 0:
            self.without.append(fault.name)
        elif place == (fault.activation, fault.site):
            self.placed += 1
        else:
            self.missed.append(f"{fault.name} ({' '.join(place) if place else found.block})")
        if found.exit_code:
            self.runs[found.runs] += 1
            self.read.append(found.compared)

    def line(self) -> str:
        """For people."""
        total = self.placed + len(self.missed)
        every = total + len(self.without)
        runs = ", ".join(f"{count} in {runs}" for runs, count in sorted(self.runs.items()))
        read = f"{min(self.read)}-{max(self.read)}" if self.read else "none"
        return (
            f"{100 * self.placed / max(every, 1):.1f} % of {every}; {self.placed} of the {total} with an effect on the "
            f"result; runs: {runs}; activations compared: {read}; without effect: {', '.join(self.without) or 'none'}; "
            f"not: {', '.join(self.missed) or 'none'}"
        )


def catalogue(folder: Path, dtype: str, names: list[str]) -> None:
    """Every fault of ``names``, in a port and in two traces."""
    checkpoint = write_checkpoint(folder / f"checkpoint-{dtype}")
    reference = folder / f"reference-{dtype}.h5"
    record(
        as_subject(f"hf:{checkpoint}", dtype), reference, inputs=discriminating_inputs(),
        floor=(dtype,),
    )  # fmt: skip
    with open_trace(reference) as trace:
        print(f"{dtype}: a reference of {len(trace.activations)} activations", flush=True)
    tallies = {"port": Tally(), "traces": Tally()}
    for number, name in enumerate(names, 1):
        port = qwen2.subject("linen", checkpoint, fault=name, dtype=dtype)
        tallies["port"].add(FAULTS[name], bisect(reference, port, mode="eager"))
        trace_path = folder / "port.h5"
        options: dict[str, Any] = {"floor": (), "verify": False, "force": True, "mode": "eager"}
        record(port, trace_path, inputs=reference, **options)
        tallies["traces"].add(FAULTS[name], bisect(reference, trace_path))
        if number % 10 == 0:
            print(f"{dtype} after {number}: {tallies['port'].line()}", file=sys.stderr, flush=True)
    for kind, tally in tallies.items():
        print(f"{dtype} {kind}: {tally.line()}", flush=True)
    for mode in ("eager", "jit"):
        right = bisect(reference, qwen2.subject("linen", checkpoint, dtype=dtype), mode=mode)
        print(f"{dtype} right port, {mode}: exit {right.exit_code}, {right.runs} runs", flush=True)


def deep(folder: Path, blocks: int) -> None:
    """Runs and readings for a fault in the middle of ``blocks`` layers."""
    from dataclasses import replace

    from firstdiff.models.qwen2 import TINY

    config = replace(TINY, num_hidden_layers=blocks)
    checkpoint = write_checkpoint(folder / f"deep-{blocks}", config=config)
    reference = folder / f"deep-{blocks}.h5"
    record(
        as_subject(f"hf:{checkpoint}"), reference, inputs=discriminating_inputs(),
        floor=("float32",),
    )  # fmt: skip
    victim = f"model.layers.{blocks // 2}.mlp.gate_proj.weight"

    def weights(name: str, read: Any) -> Any:
        return read(name) * 1.01 if name == victim else read(name)

    fault = Fault(
        "one_gate", "", "", f"layers.{blocks // 2}.mlp.gate_proj",
        f"layers.{blocks // 2}.mlp.gate_proj", weights=weights,
    )  # fmt: skip
    port = qwen2.subject("linen", checkpoint, fault=fault, scan=True)
    found = bisect(reference, port)
    trace_path = folder / "deep-port.h5"
    record(port, trace_path, inputs=reference, floor=(), verify=False, force=True)
    traces = bisect(reference, trace_path)
    with open_trace(reference) as trace:
        size = len(trace.activations)
    for kind, result in (("port", found), ("traces", traces)):
        first = result.first.name if result.first is not None else None
        print(
            f"{blocks} blocks, {size} activations, {kind}: {first}, {result.runs} runs, "
            f"{result.compared} activations compared",
            flush=True,
        )


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dtypes", nargs="*", default=[])
    parser.add_argument("--deep", nargs="*", type=int, default=[])
    parser.add_argument("--faults", nargs="*", default=list(FAULTS))
    options = parser.parse_args()
    random.Random(0).shuffle(options.faults)  # what is known half way stands for all
    with tempfile.TemporaryDirectory() as folder:
        for dtype in options.dtypes:
            catalogue(Path(folder), dtype, options.faults)
        for blocks in options.deep:
            deep(Path(folder), blocks)


if __name__ == "__main__":
    main()
