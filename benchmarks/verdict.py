"""What the verdict is worth: seeded faults found and named, and false alarms, on a tiny Qwen2 against Hugging Face.

    python benchmarks/verdict.py [--faults GLOB ...] [--dtypes float32 bfloat16 float32/bfloat16 bfloat16/float32]
                                 [--seeds 0 1] [--ports linen nnx] [--modes jit eager] [--scan] [--digest-only]
                                 [--keep FOLDER] [--verbose]

Every fault of `firstdiff.models.FAULTS` is seeded into every port, captured and compared with the reference's trace,
from the two traces alone. The rules that people use are judged on the same traces: the first tensor that fails one.
A cause is *coarse* when it is true and says less than the seeded one (a constant offset, for a missing bias).

One reference a seed and dtype, everything in one process: about a second a fault. With ``--keep`` the traces and the
compiled programs stay in FOLDER, and another run only compares; delete it when ports, faults or tracers change.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import warnings
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from figures import misses, table
from firstdiff.models import FAULTS, qwen2
from outcome import Outcome, checksums, outcome
from seeded import PRECISIONS, Setting, Traces, compile_once

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


def settings(arguments: argparse.Namespace) -> Iterator[Setting]:
    """Every setting that was asked for."""
    for seed in arguments.seeds:
        for dtype in arguments.dtypes:
            for port in arguments.ports:
                for mode in arguments.modes:
                    yield Setting(dtype, port, mode, seed, arguments.digest_only, arguments.scan)


def outcomes(traces: Traces, setting: Setting, names: Iterable[str], keep: bool) -> list[Outcome]:
    """The outcome of the right port and of every fault, in one setting."""
    reference = traces.reference(setting)
    found: list[Outcome] = []
    right: list[int] = []
    for name in ("", *names):
        fault = FAULTS[name] if name else None
        port = traces.port(setting, fault)
        sides = [traces.digests(p) if setting.digest else p for p in (reference, port)]
        made = outcome(sides[0], sides[1], fault)
        values = checksums(port)
        right = right if name else values
        found.append(replace(made, same=bool(name) and values == right))
        if not keep:
            traces.clean(port)
    return found


def chosen(globs: Iterable[str]) -> list[str]:
    """Faults whose name matches one of ``globs``."""
    return [name for name in FAULTS if any(fnmatchcase(name, glob) for glob in globs)]


def main() -> None:
    """Run what was asked for and print it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ports", nargs="+", default=["linen"], choices=qwen2.PORTS)
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"], choices=PRECISIONS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--modes", nargs="+", default=["jit"], choices=("jit", "eager"))
    parser.add_argument("--faults", nargs="*", default=["*"], metavar="GLOB")
    parser.add_argument("--scan", action="store_true", help="layers stacked, run by lax.scan")
    parser.add_argument("--digest-only", action="store_true", help="compare digests, not elements")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep traces and programs here")
    parser.add_argument("--verbose", action="store_true", help="also what was said of each fault")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", message="Explicitly requested dtype")
    every: dict[str, list[Outcome]] = {}
    with tempfile.TemporaryDirectory(prefix="firstdiff-") as scratch:
        folder = arguments.keep or Path(scratch)
        compile_once(folder / "compiled")
        traces, names = Traces(folder), chosen(arguments.faults)
        for setting in settings(arguments):
            found = outcomes(traces, setting, names, keep=arguments.keep is not None)
            print(
                "\n".join(
                    [
                        *table(setting.title, found),
                        *misses(found, verbose=arguments.verbose, digest=setting.digest),
                    ]
                ),
                flush=True,
            )
            every.setdefault(setting.precision, []).extend(found)
    for dtype, found in every.items():
        print("\n".join(table(f"{dtype}, all settings", found)))


if __name__ == "__main__":
    main()
