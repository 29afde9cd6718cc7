"""What the verdict is worth: seeded faults found and named, and false alarms, on a tiny Qwen2 against Hugging Face.

    python benchmarks/verdict.py [--faults GLOB ...] [--dtypes float32 bfloat16] [--seeds 0 1] [--ports linen nnx]
                                 [--modes jit eager] [--digest-only] [--keep FOLDER] [--verbose]

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
from collections import Counter
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


from firstdiff.diff import diff
from firstdiff.diff.explain import explain_row
from firstdiff.models import FAULTS, qwen2
from firstdiff.models.checkpoint import discriminating_inputs, write_checkpoint
from firstdiff.models.faults import find
from firstdiff.recording import record
from firstdiff.traces import Trace, TraceWriter, open_trace
from firstdiff.traces.padding import padding_mask
from rules import RULES, first_failures

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import numpy as np

    from firstdiff.diff import Diff, Row
    from firstdiff.models.faults import Fault

COARSE = {
    "constant offset": {"bias missing", "bias doubled", "bias permuted"},
    "channel scale": {"norm scale missing", "norm scale convention", "weights swapped"},
    "token scale": {"norm epsilon"},
    "scale": {"embedding scale", "unbiased variance"},
    "kernel unrelated": {"head not tied", "kernel transposed", "weights swapped"},
}
"""What a coarse cause is true of."""


@dataclass(frozen=True)
class Setting:
    """What is the same for one right port and all its faults."""

    dtype: str
    port: str
    mode: str
    seed: int
    digest: bool

    @property
    def title(self) -> str:
        """In words."""
        digest = " digest only" if self.digest else ""
        return f"{self.dtype} {self.port} {self.mode} seed {self.seed}{digest}"


@dataclass(frozen=True)
class Outcome:
    """One port, right or wrong."""

    fault: str
    """Name of the fault; empty for a right port."""
    alarm: bool
    """Whether anything was called a divergence."""
    placed: bool
    """Whether the first one is where the fault is; of a harmless fault, whether the first that differs is."""
    cause: str
    """`named`, `coarse`, `hinted`, `none` or `WRONG`."""
    rules: dict[str, tuple[bool, bool]]
    """Alarm and place of each of `RULES`."""
    words: str
    """What was said."""
    suspected: bool = False
    """Whether a mistake below the floor is suspected, ahead of any divergence."""
    suspected_there: bool = False
    """Whether where the fault is."""
    same: bool = False
    """Whether every value is the right port's: in this dtype the fault is none."""

    @property
    def harmless(self) -> bool:
        """Whether the fault has no effect on the result."""
        return bool(self.fault) and find(self.fault).harmless


def outcome(reference: Path, port: Path, fault: Fault | None) -> Outcome:
    """Compare two traces, and see whether what is said is true."""
    result = diff(reference, port)
    with open_trace(reference) as ours, open_trace(port) as theirs:
        first = result.first
        if first is None and fault is not None and fault.harmless:
            first = next((row for row in result.rows if row.healed), None)
        mask = mask_of(ours)
        cause, words = judged(result, first, fault, ours, theirs, mask)
        rules = {
            rule: (row is not None, is_place(row, fault))
            for rule, row in first_failures(result, ours, theirs, mask).items()
        }
    alarm = result.finding is not None
    doubt = result.suspicion
    there = doubt is not None and fault is not None
    there = there and (doubt.name, doubt.site) == (fault.activation, fault.site)
    if doubt is not None and cause == "none" and fault is not None and doubt.cause == fault.cause:
        cause = "hinted"
    name = fault.name if fault else ""
    placed = is_place(first, fault)
    return Outcome(name, alarm, placed, cause, rules, words, doubt is not None, there)


def is_place(row: Row | None, fault: Fault | None) -> bool:
    """Whether ``row`` is the first wrong activation of ``fault``."""
    if row is None or fault is None:
        return False
    return (row.name, row.key.site) == (fault.activation, fault.site)


def judged(
    result: Diff, first: Row | None, fault: Fault | None,
    ours: Trace, theirs: Trace, mask: np.ndarray | None,
) -> tuple[str, str]:  # fmt: skip
    """What the explanation is worth, and what it says."""
    found = result.explanation
    if found is None and first is not None and fault is not None and fault.harmless:
        found = explain_row(ours, theirs, result.rows, first, mask)
    if found is None:
        return "none", result.summary
    where = f"{first.name} {first.label}: " if first is not None else ""
    said = where + found.sentence
    if found.cause is None:
        hinted = fault is not None and fault.cause in [hint.cause for hint in found.hints]
        return "hinted" if hinted else "none", said
    if fault is not None and found.cause == fault.cause:
        return "named", said
    coarse = fault is not None and fault.cause in COARSE.get(found.cause, ())
    return "coarse" if coarse else "WRONG", said


def mask_of(trace: Trace) -> np.ndarray | None:
    """The real tokens."""
    return padding_mask({name: trace.input_values(name) for name in trace.inputs})


def checksums(path: Path) -> list[int]:
    """Of every activation of a trace."""
    with open_trace(path) as trace:
        return [a.digest.checksum for a in trace.activations if a.digest is not None]


class Traces:
    """The traces of a run, made when they are first asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def checkpoint(self, seed: int) -> Path:
        """The weights of a seed."""
        path = self.folder / f"checkpoint-{seed}"
        return path if path.exists() else write_checkpoint(path, seed=seed)

    def reference(self, seed: int, dtype: str) -> Path:
        """Hugging Face's trace."""
        path = self.folder / f"reference-{dtype}-{seed}.h5"
        if not path.exists():
            subject, inputs = f"hf:{self.checkpoint(seed)}", discriminating_inputs(seed=seed)
            record(subject, path, inputs=inputs, dtype=dtype, floor=(dtype,), verify=False)
        return path

    def port(self, setting: Setting, fault: Fault | None) -> Path:
        """The port's trace; ``fault`` None for the right one."""
        s, name = setting, fault.name if fault else "right"
        path = self.folder / f"{s.port}-{s.mode}-{s.dtype}-{s.seed}-{name}.h5"
        if not path.exists():
            subject = qwen2.subject(s.port, self.checkpoint(s.seed), fault=fault, dtype=s.dtype)
            inputs = discriminating_inputs(seed=s.seed)
            record(subject, path, inputs=inputs, mode=s.mode, verify=False)
        return path

    def digests(self, full: Path) -> Path:
        """The same trace without elements, as `capture --digest` writes it."""
        path = full.with_name(f"digest-{full.name}")
        if not path.exists():
            with open_trace(full) as trace, TraceWriter(path, trace.header, digest_only=True) as w:
                for name, given in trace.inputs.items():
                    w.write_input(name, trace.input(name), dtype=given.dtype)
                for activation in trace.activations:
                    w.write_digest(activation)
                for name in (n for n in trace.tables if n.startswith("floor/free/")):
                    rows = trace.table(name)
                    assert rows is not None, "a table that is listed"
                    w.write_table(name, rows)
                w.finish()
        return path

    def clean(self, path: Path) -> None:
        """Forget a port's trace."""
        for file in (path, path.with_name(f"digest-{path.name}")):
            file.unlink(missing_ok=True)


def settings(arguments: argparse.Namespace) -> Iterator[Setting]:
    """Every setting that was asked for."""
    for seed in arguments.seeds:
        for dtype in arguments.dtypes:
            for port in arguments.ports:
                for mode in arguments.modes:
                    yield Setting(dtype, port, mode, seed, arguments.digest_only)


def outcomes(traces: Traces, setting: Setting, names: Iterable[str], keep: bool) -> list[Outcome]:
    """The outcome of the right port and of every fault, in one setting."""
    reference = traces.reference(setting.seed, setting.dtype)
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


def table(title: str, found: Iterable[Outcome]) -> list[str]:
    """The figures of one setting as lines."""
    found = list(found)
    right, wrong = [o for o in found if not o.fault], [o for o in found if o.fault]
    causes = Counter(o.cause for o in wrong)
    harmful, harmless = [o for o in wrong if not o.harmless], [o for o in wrong if o.harmless]
    either = sum(o.placed or o.suspected_there for o in wrong)
    elsewhere = sum(o.suspected and not o.suspected_there for o in wrong)
    lines = [
        f"{title}: {len(wrong)} faults, {len(right)} right ports",
        f"  place found exactly               {share(sum(o.placed for o in wrong), len(wrong))}",
        f"  ... or suspected below the floor  {share(either, len(wrong))}",
        f"  suspected elsewhere               {share(elsewhere, len(wrong))}",
        f"  no fault in this dtype            {share(sum(o.same for o in wrong), len(wrong))}",
        f"  called a divergence, harmful      {share(sum(o.alarm for o in harmful), len(harmful))}",
        f"  called a divergence, harmless     {share(sum(o.alarm for o in harmless), len(harmless))}",
        f"  cause named                       {share(causes['named'], len(wrong))}",
        f"  cause named coarsely              {share(causes['coarse'], len(wrong))}",
        f"  cause among three (or named)      {share(causes['named'] + causes['hinted'], len(wrong))}",
        f"  wrong cause stated as certain     {share(causes['WRONG'], len(wrong))}",
        f"  false alarms on right ports       {share(sum(o.alarm for o in right), len(right))}",
        f"  suspicions of right ports         {share(sum(o.suspected for o in right), len(right))}",
    ]
    for rule in RULES if any(any(map(any, o.rules.values())) for o in found) else ():
        placed = share(sum(o.rules[rule][1] for o in wrong), len(wrong))
        noticed = share(sum(o.rules[rule][0] for o in wrong), len(wrong))
        alarms = share(sum(o.rules[rule][0] for o in right), len(right))
        lines.append(f"  {rule:<16} place {placed}   noticed {noticed}   false alarms {alarms}")
    return lines


def misses(found: Iterable[Outcome], *, verbose: bool, digest: bool) -> Iterator[str]:
    """What was said wherever it was not the whole truth; with ``verbose`` everywhere. No cause is asked of digests."""
    for o in found:
        whole = o.placed and o.alarm != o.harmless and (digest or o.cause == "named")
        if o.fault and (verbose or not whole):
            place = "" if o.placed else " suspected there" if o.suspected_there else " MISPLACED"
            place += ", equal to the right port" if o.same else ""
            alarm = "" if o.alarm != o.harmless else " ALARM" if o.alarm else " NO ALARM"
            yield f"    {o.fault} ({find(o.fault).cause}): {o.cause}{place}{alarm}: {o.words}"


def share(part: int, whole: int) -> str:
    """`18/19  95 %`."""
    return f"{part:>4}/{whole:<4}{100 * part / whole if whole else 0:4.0f} %"


def chosen(globs: Iterable[str]) -> list[str]:
    """Faults whose name matches one of ``globs``."""
    return [name for name in FAULTS if any(fnmatchcase(name, glob) for glob in globs)]


def compile_once(folder: Path) -> None:
    """Keep compiled programs: faults in the weights, and other seeds, share them."""
    import jax

    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def main() -> None:
    """Run what was asked for and print it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ports", nargs="+", default=["linen"], choices=qwen2.PORTS)
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--modes", nargs="+", default=["jit"], choices=("jit", "eager"))
    parser.add_argument("--faults", nargs="*", default=["*"], metavar="GLOB")
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
            every.setdefault(setting.dtype, []).extend(found)
    for dtype, found in every.items():
        print("\n".join(table(f"{dtype}, all settings", found)))


if __name__ == "__main__":
    main()
