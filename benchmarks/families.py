"""What the verdict is worth beyond Qwen2: faults of GPT-2, BERT, ViT, Gemma and Mixtral, in ports of each.

    python benchmarks/families.py [--faults GLOB ...] [--dtypes float32 bfloat16] [--seeds 0 1]
                                  [--keep FOLDER] [--verbose]

Every fault of `firstdiff.models.family_faults` against Hugging Face, from the two traces alone, as `verdict.py` does it
with Qwen2. Traces keep digests of the weights: where the explanation names no cause and the audit of the weights names
a wrong one, that is counted apart.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from collections import Counter
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from figures import misses, share
from firstdiff.models.default_inputs import default_inputs
from firstdiff.models.family_checkpoint import write_family
from firstdiff.models.family_faults import FAMILY_FAULTS
from firstdiff.models.faults import find
from firstdiff.models.loading import load_subject
from firstdiff.models.ported import PORTED, subject
from firstdiff.recording import record
from outcome import Outcome, outcome
from seeded import compile_once

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from firstdiff.models.fault import Fault


class Traces:
    """The traces of a run, made when they are first asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def checkpoint(self, family: str, seed: int) -> Path:
        """The weights of a family and seed."""
        path = self.folder / f"{family}-{seed}"
        return path if path.exists() else write_family(family, path, seed=seed)

    def reference(self, family: str, seed: int, dtype: str) -> Path:
        """Hugging Face's trace."""
        path = self.folder / f"{family}-{dtype}-{seed}-reference.h5"
        if not path.exists():
            loaded = load_subject(f"hf:{self.checkpoint(family, seed)}", dtype=dtype)
            inputs = default_inputs(loaded.model, seed)
            record(loaded, path, inputs=inputs, floor=(dtype,), verify=False)
        return path

    def port(self, family: str, seed: int, dtype: str, fault: Fault | None) -> Path:
        """The port's trace; ``fault`` None for the right one."""
        name = fault.name if fault else "right"
        path = self.folder / f"{family}-{dtype}-{seed}-{name}.h5"
        if not path.exists():
            port = subject(family, "linen", self.checkpoint(family, seed), fault=fault, dtype=dtype)
            record(port, path, inputs=self.reference(family, seed, dtype), verify=False)
        return path


def outcomes(
    traces: Traces, seed: int, dtype: str, names: Iterable[str], keep: bool
) -> Iterator[Outcome]:
    """Of the right port of every family that ``names`` touch, and of every fault."""
    faults = [FAMILY_FAULTS[name] for name in names]
    for family in PORTED:
        own = [fault for fault in faults if fault.family == family]
        for fault in (None, *own) if own else ():
            reference = traces.reference(family, seed, dtype)
            port = traces.port(family, seed, dtype, fault)
            yield outcome(reference, port, fault)
            if not keep:
                port.unlink()


def table(title: str, found: Iterable[Outcome]) -> list[str]:
    """The figures of one setting as lines."""
    found = list(found)
    right, wrong = [o for o in found if not o.fault], [o for o in found if o.fault]
    causes, count = Counter(o.cause for o in wrong), len(wrong)
    harmless = [o for o in wrong if find(o.fault).harmless]
    return [
        f"{title}: {count} faults, {len(right)} right ports",
        f"  place found exactly             {share(sum(o.placed for o in wrong), count)}",
        f"  ... or suspected there          {share(sum(o.placed or o.suspected_there for o in wrong), count)}",
        f"  called a divergence             {share(sum(o.alarm for o in wrong), count)}",
        f"  ... though harmless             {share(sum(o.alarm for o in harmless), len(harmless))}",
        f"  cause named                     {share(causes['named'], count)}",
        f"  cause named coarsely            {share(causes['coarse'], count)}",
        f"  told by the audit of weights    {share(causes['audit'], count)}",
        f"  cause among three only          {share(causes['hinted'], count)}",
        f"  no cause                        {share(causes['none'], count)}",
        f"  wrong cause stated as certain   {share(causes['WRONG'], count)}",
        f"  right ports called a divergence {share(sum(o.alarm for o in right), len(right))}",
        f"  right ports suspected           {share(sum(o.suspected for o in right), len(right))}",
    ]


def main() -> None:
    """Run what was asked for and print it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--faults", nargs="*", default=["*"], metavar="GLOB")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep traces and programs here")
    parser.add_argument("--verbose", action="store_true", help="also what was said of each fault")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", message="Explicitly requested dtype")
    names = [n for n in FAMILY_FAULTS if any(fnmatchcase(n, glob) for glob in arguments.faults)]
    every: dict[str, list[Outcome]] = {}
    with tempfile.TemporaryDirectory(prefix="firstdiff-") as scratch:
        folder = arguments.keep or Path(scratch)
        compile_once(folder / "compiled")
        for seed in arguments.seeds:
            for dtype in arguments.dtypes:
                kept = arguments.keep is not None
                found = list(outcomes(Traces(folder), seed, dtype, names, kept))
                print("\n".join(table(f"{dtype} seed {seed}", found)))
                for line in misses(found, verbose=arguments.verbose, digest=False):
                    print(line, flush=True)
                every.setdefault(dtype, []).extend(found)
    for dtype, found in every.items():
        print("\n".join(table(f"{dtype}, all seeds", found)))


if __name__ == "__main__":
    main()
