"""Bisect over the catalogue of seeded faults: is the place named, in how many runs, with how many activations read?

    nice -n 10 python benchmarks/bisection.py --dtypes float32 bfloat16        # about 20 minutes of CPU, one core
    nice -n 10 python benchmarks/bisection.py --right float32 bfloat16         # right ports, however they round
    nice -n 10 python benchmarks/bisection.py --deep 8 24                      # runs and readings by depth alone

Each fault is searched for in a port that is run, and in two traces. A fault is placed when its activation is the one
named; a harmless one when the result is said to agree. A fault that leaves the result within its floor has no effect
to search for, and is counted apart.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from firstdiff.bisecting import bisect
from firstdiff.models import qwen2
from firstdiff.models.checkpoint import discriminating_inputs, write_checkpoint
from firstdiff.models.faults import FAULTS, Fault
from firstdiff.models.variants import VARIANTS
from firstdiff.recording import as_subject, record
from firstdiff.traces import Trace, open_trace

if TYPE_CHECKING:
    from firstdiff.diff.bisection import Bisection
    from firstdiff.traces import Activation
    from firstdiff.traces.schema import Key


@dataclass
class Reading:
    """What was read of the activations of both traces."""

    nbytes: dict[tuple[str, str], int] = field(default_factory=dict)
    """Bytes by trace and key; an activation that is read twice counts once. Kept parameters are none."""
    keys: dict[str, frozenset[Key]] = field(default_factory=dict)
    """Every activation of a trace, by its path."""

    @property
    def total(self) -> int:
        """Bytes."""
        return sum(self.nbytes.values())


@contextmanager
def reading() -> Iterator[Reading]:
    """Counts every activation whose elements are asked for, in any trace."""
    found, stored = Reading(), Trace.stored

    def counted(self: Trace, activation: Activation) -> Any:
        value, path = stored(self, activation), str(self.path)
        if path not in found.keys:
            found.keys[path] = frozenset(a.key for a in self.activations)
        if activation.part is None and activation.key in found.keys[path]:
            found.nbytes[path, str(activation.key)] = value.nbytes
        return value

    Trace.stored = counted
    try:
        yield found
    finally:
        Trace.stored = stored


@dataclass
class Tally:
    """Results of one kind of search."""

    placed: int = 0
    """Faults with an effect on the result that are named right."""
    agreeing: int = 0
    """Harmless faults, said to be none."""
    without: list[str] = field(default_factory=list)
    """Faults that leave the result within its floor."""
    missed: list[str] = field(default_factory=list)
    """The others, with what was named instead."""
    runs: list[int] = field(default_factory=list)
    """How often the port ran, a fault with an effect each."""
    compared: list[int] = field(default_factory=list)
    """Activations compared."""
    read: list[tuple[int, int]] = field(default_factory=list)
    """Activations and bytes read of both traces."""

    def add(self, fault: Fault, found: Bisection, read: Reading) -> str:
        """One search; says what came out."""
        first = found.first
        place = (first.name, first.key.site) if first is not None else (found.block, "block")
        if found.exit_code == 0:
            self.agreeing += fault.harmless
            self.without += [] if fault.harmless else [fault.name]
            return "agrees, harmless" if fault.harmless else "no effect on the result"
        self.runs.append(found.runs)
        self.compared.append(found.compared)
        self.read.append((len(read.nbytes), read.total))
        if place == (fault.activation, fault.site):
            self.placed += 1
            return f"placed, {found.runs} runs, {found.compared} compared"
        self.missed.append(f"{fault.name} ({' '.join(place)})")
        return f"MISSED: {' '.join(place)}, {found.runs} runs, {found.compared} compared"

    def line(self) -> str:
        """For people."""
        total = self.placed + len(self.missed)
        numbers = {
            "runs": spread(self.runs),
            "activations compared": spread(self.compared),
            "activations read": spread([count for count, _ in self.read]),
            "KB read": spread([size // 1024 for _, size in self.read]),
        }
        return "; ".join(
            [
                f"{self.placed} of the {total} with an effect on the result placed",
                f"{self.agreeing} harmless that agree",
                f"{len(self.without)} without effect: {', '.join(self.without) or 'none'}",
                *(f"{name} {text}" for name, text in numbers.items()),
                f"missed: {', '.join(self.missed) or 'none'}",
            ]
        )


def spread(numbers: Sequence[int]) -> str:
    """Smallest / median / largest."""
    if not numbers:
        return "none"
    return f"{min(numbers)} / {statistics.median(numbers):g} / {max(numbers)}"


def reference_of(folder: Path, dtype: str) -> tuple[Path, Path]:
    """The tiny checkpoint, and Hugging Face's trace of it."""
    checkpoint = write_checkpoint(folder / f"checkpoint-{dtype}")
    reference = folder / f"reference-{dtype}.h5"
    record(
        as_subject(f"hf:{checkpoint}", dtype), reference, inputs=discriminating_inputs(),
        floor=(dtype,), force=True,
    )  # fmt: skip
    return checkpoint, reference


def trace_of(port: Any, reference: Path, path: Path) -> Path:
    """The port's own trace, for a search in two traces."""
    options: dict[str, Any] = {"floor": (), "verify": False, "force": True, "mode": "eager"}
    return record(port, path, inputs=reference, **options).path


def catalogue(folder: Path, dtype: str, names: list[str], kinds: Sequence[str]) -> None:
    """Every fault of ``names``, in a port and in two traces."""
    checkpoint, reference = reference_of(folder, dtype)
    with open_trace(reference) as trace:
        size = sum(a.place.nbytes for a in trace.activations if a.place is not None)
        print(f"{dtype}: a reference of {len(trace.activations)} activations, {size // 1024} KB")
    tallies = {kind: Tally() for kind in kinds}
    for number, name in enumerate(names, 1):
        port = qwen2.subject("linen", checkpoint, fault=name, dtype=dtype)
        for kind in kinds:
            side = port if kind == "port" else trace_of(port, reference, folder / "port.h5")
            with reading() as read:
                found = bisect(reference, side, mode="eager", functions=False)
            told = tallies[kind].add(FAULTS[name], found, read)
            print(f"{dtype} {number} {name}, {kind}: {told}", file=sys.stderr, flush=True)
    for kind, tally in tallies.items():
        print(f"{dtype} {kind}, {len(names)} faults: {tally.line()}", flush=True)


def right(folder: Path, dtype: str, kinds: Sequence[str]) -> None:
    """The right port, in a loop, scanned and under jit, and every variant of it: none may diverge."""
    checkpoint, reference = reference_of(folder, dtype)
    ports: dict[str, dict[str, Any]] = {"plain": {}, "scan": {"scan": True}, "jit": {}}
    ports |= {name: {"variant": name} for name in VARIANTS}
    alarms, asked = [], 0
    for name, options in ports.items():
        port = qwen2.subject("linen", checkpoint, dtype=dtype, **options)
        for kind in kinds:
            side = port if kind == "port" else trace_of(port, reference, folder / "port.h5")
            found = bisect(reference, side, mode="jit" if name == "jit" else "eager")
            asked += 1
            alarms += [f"{name} {kind} ({found.summary})"] if found.exit_code else []
    print(
        f"{dtype}, right ports: {len(alarms)} alarms in {asked} searches of {len(ports)} ports; "
        f"{', '.join(alarms) or 'none'}",
        flush=True,
    )


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
    path = folder / "deep-port.h5"
    record(port, path, inputs=reference, floor=(), verify=False, force=True)
    with open_trace(reference) as trace:
        size = len(trace.activations)
    for kind, side in (("port", port), ("traces", path)):
        with reading() as read:
            result = bisect(reference, side, functions=False)
        first = result.first.name if result.first is not None else None
        print(
            f"{blocks} blocks, {size} activations, {kind}: {first}, {result.runs} runs, "
            f"{result.compared} activations compared, {len(read.nbytes)} read, {read.total // 1024} KB",
            flush=True,
        )


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dtypes", nargs="*", default=[], help="search for every fault")
    parser.add_argument("--right", nargs="*", default=[], metavar="DTYPE", help="false alarms")
    parser.add_argument("--deep", nargs="*", type=int, default=[], metavar="BLOCKS")
    parser.add_argument("--faults", nargs="*", default=list(FAULTS))
    parser.add_argument("--kinds", nargs="*", default=["port", "traces"])
    options = parser.parse_args()
    random.Random(0).shuffle(options.faults)  # what is known half way stands for all
    with tempfile.TemporaryDirectory() as folder:
        for dtype in options.dtypes:
            catalogue(Path(folder), dtype, options.faults, options.kinds)
        for dtype in options.right:
            right(Path(folder), dtype, options.kinds)
        for blocks in options.deep:
            deep(Path(folder), blocks)


if __name__ == "__main__":
    main()
