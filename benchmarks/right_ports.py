"""False alarms on right ports: none may be reported as diverging.

    python benchmarks/right_ports.py --seeds 10 --frameworks linen

Every seed draws new weights and a new prompt. Ports run eagerly and under jit, with a loop and with scan over the
layers, in float32, in bfloat16 against a bfloat16 reference, and in bfloat16 against a float32 reference.
"""

from __future__ import annotations

import argparse
import itertools
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from firstdiff.checking import check
from firstdiff.models import discriminating_inputs, qwen2, write_checkpoint
from firstdiff.recording import record

if TYPE_CHECKING:
    from firstdiff.diff import Diff

PRECISIONS = {
    "float32": ("float32", "float32"),
    "bfloat16": ("bfloat16", "bfloat16"),
    "bfloat16 port, float32 reference": ("float32", "bfloat16"),
}
"""Dtypes of the reference and of the port."""


def worst(result: Diff) -> float:
    """Largest error / floor of a comparison."""
    return max((row.verdict.score or 0.0 for row in result.rows), default=0.0)


def main() -> None:
    """Print one line a variant: runs, divergences, largest error / floor."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--frameworks", default="linen")
    options = parser.parse_args()
    found: dict[tuple[str, ...], list[Diff]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for seed in range(options.seeds):
            folder = Path(scratch) / str(seed)
            checkpoint = write_checkpoint(folder / "checkpoint", seed=seed)
            for dtype in ("float32", "bfloat16"):
                inputs = discriminating_inputs(seed=seed)
                record(f"hf:{checkpoint}", folder / f"{dtype}.h5", inputs=inputs, dtype=dtype)
            variants = itertools.product(
                options.frameworks.split(","), PRECISIONS, ("jit", "eager"), (False, True)
            )
            for framework, precision, mode, scan in variants:
                reference, port = PRECISIONS[precision]
                subject = qwen2.subject(framework, checkpoint, dtype=port, scan=scan)
                result = check(folder / f"{reference}.h5", subject, mode=mode, verify=False)
                key = (framework, precision, mode, "scan" if scan else "loop")
                found.setdefault(key, []).append(result)
                if result.exit_code:
                    print(f"seed {seed} {' · '.join(key)}: {result.summary}", flush=True)
    print(
        f"{'variant':64s} {'runs':>5s} {'diverge':>8s} {'healed':>7s} {'worst':>6s} {'fewest pairs':>13s}"
    )
    for key, results in found.items():
        wrong = sum(bool(result.exit_code) for result in results)
        healed = sum(result.counts.healed for result in results)
        largest = max(map(worst, results))
        pairs = min(result.counts.pairs for result in results)
        print(
            f"{' · '.join(key):64s} {len(results):5d} {wrong:8d} {healed:7d} {largest:6.2f} {pairs:13d}"
        )


if __name__ == "__main__":
    main()
