"""False alarms on right ports: none may be reported as diverging, however differently they round.

    python benchmarks/right_ports.py [--seeds 20] [--first 0] [--ports linen] [--variants GLOB ...] [--keep FOLDER]

Every seed draws new weights and a new prompt. The plain port with a loop, with scan and with remat, and every variant
of `firstdiff.models.variants` (linen), each eagerly and under jit, in each of `PRECISIONS`. Figures are printed after
every seed, so that a run may be stopped.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections import defaultdict
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from firstdiff.diff import diff
from firstdiff.models import discriminating_inputs, qwen2, write_checkpoint
from firstdiff.models.variants import VARIANTS
from firstdiff.recording import record
from seeded import compile_once

if TYPE_CHECKING:
    from collections.abc import Iterator

    from firstdiff.diff import Diff

PRECISIONS = {
    "float32": ("float32", "float32"),
    "bfloat16": ("bfloat16", "bfloat16"),
    "bfloat16 port, float32 reference": ("float32", "bfloat16"),
    "float32 port, bfloat16 reference": ("rounded", "widened"),
}
"""Reference and port. `rounded` and `widened` hold the same bfloat16 weights and compute in bfloat16 and float32."""
PORT_DTYPES = {"float32": "float32", "bfloat16": "bfloat16", "widened": "float32"}


@dataclass
class Tally:
    """What came out for one kind of right port in one precision."""

    runs: int = 0
    alarms: int = 0
    suspicions: int = 0
    healed: int = 0
    worst: float = 0.0
    pairs: set[int] = field(default_factory=set)

    def add(self, result: Diff) -> None:
        """Count one comparison."""
        scores = [row.verdict.score or 0.0 for row in result.rows if not row.healed]
        self.runs += 1
        self.alarms += bool(result.exit_code)
        self.suspicions += result.suspicion is not None
        self.healed += bool(result.counts.healed)
        self.worst = max([self.worst, *scores])
        self.pairs.add(result.counts.pairs)


def kinds(ports: list[str], globs: list[str]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(name, port, options of the subject) of every right port."""
    for port in ports:
        yield f"{port}", port, {}
        yield f"{port} scan", port, {"scan": True}
        yield f"{port} remat", port, {"remat": True}
    for name in VARIANTS:
        if any(fnmatchcase(name, glob) for glob in globs):
            yield name, "linen", {"variant": name}


def references(folder: Path, seed: int) -> dict[str, Path]:
    """Hugging Face's traces of one seed."""
    inputs, found = discriminating_inputs(seed=seed), {}
    for name, weights in (
        ("float32", "float32"),
        ("bfloat16", "float32"),
        ("rounded", "bfloat16"),
    ):
        checkpoint = write_checkpoint(folder / weights, seed=seed, dtype=weights)
        found[name] = folder / f"{name}.h5"
        dtype = "float32" if name == "float32" else "bfloat16"
        record(f"hf:{checkpoint}", found[name], inputs=inputs, dtype=dtype, verify=False)
    return found


def comparisons(
    folder: Path, seed: int, mode: str, port: str, options: dict[str, Any]
) -> Iterator[tuple[str, Diff]]:
    """One right port recorded in each dtype, and compared with each reference that it belongs to."""
    inputs = discriminating_inputs(seed=seed)
    for name, dtype in PORT_DTYPES.items():
        weights = folder / ("bfloat16" if name == "widened" else "float32")
        path = folder / "port.h5"
        subject = qwen2.subject(port, weights, dtype=dtype, **options)
        record(subject, path, inputs=inputs, mode=mode, verify=False, force=True)
        for precision, (reference, made) in PRECISIONS.items():
            if made == name:
                yield precision, diff(folder / f"{reference}.h5", path)


def table(found: dict[tuple[str, str], Tally]) -> str:
    """A line a kind: alarms + suspicions below the floor / comparisons, and the largest error / floor; totals last."""
    names = list(dict.fromkeys(name for name, _ in found))
    lines = [f"{'right port':<24}" + "".join(f"{p:>36}" for p in PRECISIONS)]
    for name in names:
        cells = [found[name, p] for p in PRECISIONS]
        texts = [f"{t.alarms}+{t.suspicions}/{t.runs}, worst {t.worst:.2f}" for t in cells]
        lines.append(f"{name:<24}" + "".join(f"{text:>36}" for text in texts))
    every = list(found.values())
    lines.append(
        f"all: {sum(t.alarms for t in every)} alarms and {sum(t.suspicions for t in every)} suspicions "
        f"in {sum(t.runs for t in every)} comparisons; "
        f"fewest pairs {min(min(t.pairs) for t in every)}"
    )
    return "\n".join(lines)


def main() -> None:
    """Run every kind on every seed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=20, help="how many")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--ports", nargs="+", default=["linen"], choices=qwen2.PORTS)
    parser.add_argument("--variants", nargs="*", default=["*"], metavar="GLOB")
    parser.add_argument("--modes", nargs="+", default=["jit", "eager"], choices=("jit", "eager"))
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep compiled programs here")
    options = parser.parse_args()
    found: dict[tuple[str, str], Tally] = defaultdict(Tally)
    with tempfile.TemporaryDirectory(prefix="firstdiff-") as scratch:
        compile_once((options.keep or Path(scratch)) / "compiled")
        for seed in range(options.first, options.first + options.seeds):
            folder = Path(scratch) / str(seed)
            folder.mkdir()
            references(folder, seed)
            for mode in options.modes:
                for name, port, made in kinds(options.ports, options.variants):
                    for precision, result in comparisons(folder, seed, mode, port, made):
                        found[name, precision].add(result)
                        if result.exit_code or result.suspicion is not None:
                            print(f"ALARM seed {seed} {name} {mode} {precision}: {result.summary}")
            print(f"after seed {seed}\n{table(found)}", flush=True)


if __name__ == "__main__":
    main()
