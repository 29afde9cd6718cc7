"""What the verdict is worth: seeded faults found and named, and false alarms, on a tiny Qwen2 against Hugging Face.

    python benchmarks/verdict.py [--ports linen nnx] [--dtypes float32 bfloat16] [--seeds 0 1] [--modes jit eager]
                                 [--faults NAME ...] [--verbose]

Every fault of `firstdiff.models.FAULTS` is seeded into every port, captured and compared with the reference's trace,
from the two traces alone. The rules that people use are judged on the same traces: the first tensor that fails one.
A cause is *coarse* when it is true and says less than the seeded one (a constant offset, for a missing bias).
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from firstdiff.diff import diff
from firstdiff.diff.explain import explain_row
from firstdiff.models import FAULTS, qwen2
from firstdiff.models.checkpoint import discriminating_inputs, write_checkpoint
from firstdiff.recording import record
from firstdiff.traces import Trace, open_trace
from firstdiff.traces.padding import padding_mask, valid_elements

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

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
TOLERANCE = {"float32": (1.3e-6, 1e-5), "bfloat16": (1.6e-2, 1e-5), "float16": (1e-3, 1e-5)}
"""rtol and atol of torch.testing.assert_close."""
RULES = ("allclose", "PCC < 0.99", "rel_diff > 1e-3")


@dataclass(frozen=True)
class Outcome:
    """One port, right or wrong."""

    fault: str
    """Name of the fault; empty for a right port."""
    alarm: bool
    """Whether anything was called a divergence."""
    placed: bool
    """Whether the first one is where the fault is."""
    cause: str
    """`named`, `coarse`, `hinted`, `none` or `WRONG`."""
    rules: dict[str, tuple[bool, bool]]
    """Alarm and place of each of `RULES`."""
    words: str
    """What was said."""


def outcome(reference: Path, port: Path, fault: Fault | None) -> Outcome:
    """Compare two traces, and see whether what is said is true."""
    result = diff(reference, port)
    with open_trace(reference) as ours, open_trace(port) as theirs:
        first = result.first or next((row for row in result.rows if row.healed), None)
        placed = fault is not None and first is not None and is_place(first, fault)
        cause, words = judged(result, first, fault, ours, theirs)
        rules = {rule: by_rule(rule, result, fault, ours, theirs, mask_of(ours)) for rule in RULES}
    alarm = result.finding is not None
    return Outcome(fault.name if fault else "", alarm, placed, cause, rules, words)


def is_place(row: Row, fault: Fault) -> bool:
    """Whether ``row`` is the first wrong activation of ``fault``."""
    return (row.name, row.key.site) == (fault.activation, fault.site)


def judged(
    result: Diff, first: Row | None, fault: Fault | None, ours: Trace, theirs: Trace
) -> tuple[str, str]:
    """What the explanation is worth, and what it says."""
    found = result.explanation
    if found is None and first is not None and fault is not None and fault.harmless:
        found = explain_row(ours, theirs, result.rows, first, mask_of(ours))
    if found is None:
        return "none", result.summary
    if found.cause is None:
        hinted = fault is not None and fault.cause in [hint.cause for hint in found.hints]
        return "hinted" if hinted else "none", found.sentence
    if fault is not None and found.cause == fault.cause:
        return "named", found.sentence
    coarse = fault is not None and fault.cause in COARSE.get(found.cause, ())
    return "coarse" if coarse else "WRONG", found.sentence


def mask_of(trace: Trace) -> np.ndarray | None:
    """The real tokens."""
    return padding_mask({name: trace.input_values(name) for name in trace.inputs})


def by_rule(
    rule: str,
    result: Diff,
    fault: Fault | None,
    ours: Trace,
    theirs: Trace,
    mask: np.ndarray | None,
) -> tuple[bool, bool]:
    """Whether ``rule`` fails any tensor, and whether the first one it fails is the fault's place."""
    for row in result.rows:
        if row.pair is None or row.layout is None or row.pair.reference.place is None:
            continue
        a = np.asarray(row.layout.reference(ours.values(row.pair.reference)), np.float64)
        b = np.asarray(row.layout.port(theirs.values(row.pair.port)), np.float64)
        real = valid_elements(a.shape, mask)
        if real is not None:
            keep = np.broadcast_to(real, a.shape)
            a, b = a[keep], b[keep]
        if fails(rule, a.reshape(-1), b.reshape(-1), result.dtype):
            return True, fault is not None and is_place(row, fault)
    return False, False


def fails(rule: str, a: np.ndarray, b: np.ndarray, dtype: str) -> bool:
    """Whether two tensors fail one of `RULES`."""
    if np.array_equal(a, b):
        return False
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return True
    if rule == "allclose":
        rtol, atol = TOLERANCE[dtype]
        return not np.allclose(b, a, rtol=rtol, atol=atol)
    scale = max(np.abs(a).max(), np.abs(b).max(), 1e-30)
    a, b = a / scale, b / scale
    if rule == "PCC < 0.99":
        if not a.std() or not b.std():
            return True
        return bool(np.corrcoef(a, b)[0, 1] < 0.99)
    return bool(1 - 2 * (a @ b) / max(a @ a + b @ b, 1e-300) > 1e-3)


def runs(arguments: argparse.Namespace, folder: Path) -> Iterator[tuple[str, list[Outcome]]]:
    """Every setting with its outcomes, the right port first."""
    for seed in arguments.seeds:
        checkpoint = write_checkpoint(folder / f"checkpoint-{seed}", seed=seed)
        inputs = discriminating_inputs(seed=seed)
        for dtype in arguments.dtypes:
            reference = folder / "reference.h5"
            record(
                f"hf:{checkpoint}",
                reference,
                inputs=inputs,
                dtype=dtype,
                floor=(dtype,),
                force=True,
            )
            for port in arguments.ports:
                for mode in arguments.modes:
                    yield (
                        f"{dtype} {port} {mode} seed {seed}",
                        list(
                            outcomes(
                                arguments, folder, checkpoint, reference, inputs, dtype, port, mode
                            )
                        ),
                    )


def outcomes(
    arguments: argparse.Namespace, folder: Path, checkpoint: Path, reference: Path,
    inputs: dict[str, np.ndarray], dtype: str, port: str, mode: str,
) -> Iterator[Outcome]:  # fmt: skip
    """The outcome of the right port and of every fault, in one setting."""
    for name in ("", *arguments.faults):
        fault = FAULTS[name] if name else None
        subject = qwen2.subject(port, checkpoint, fault=fault, dtype=dtype)
        path = folder / "port.h5"
        record(subject, path, inputs=inputs, mode=mode, verify=False, force=True)
        yield outcome(reference, path, fault)


def table(title: str, found: Iterable[Outcome]) -> list[str]:
    """The figures of one setting as lines."""
    found = list(found)
    right, wrong = [o for o in found if not o.fault], [o for o in found if o.fault]
    causes = Counter(o.cause for o in wrong)
    seen = [o for o in wrong if o.placed or o.alarm]
    lines = [
        f"{title}: {len(wrong)} faults, {len(right)} right ports",
        f"  noticed                           {share(len(seen), len(wrong))}",
        f"  place found exactly               {share(sum(o.placed for o in wrong), len(wrong))}",
        f"  cause named                       {share(causes['named'], len(wrong))}",
        f"  cause named coarsely              {share(causes['coarse'], len(wrong))}",
        f"  cause among three (or named)      {share(causes['named'] + causes['hinted'], len(wrong))}",
        f"  wrong cause stated as certain     {share(causes['WRONG'], len(wrong))}",
        f"  false alarms on right ports       {share(sum(o.alarm for o in right), len(right))}",
    ]
    for rule in RULES:
        placed = share(sum(o.rules[rule][1] for o in wrong), len(wrong))
        noticed = share(sum(o.rules[rule][0] for o in wrong), len(wrong))
        alarms = share(sum(o.rules[rule][0] for o in right), len(right))
        lines.append(f"  {rule:<16} place {placed}   noticed {noticed}   false alarms {alarms}")
    return lines


def share(part: int, whole: int) -> str:
    """`18/19  95 %`."""
    return f"{part:>4}/{whole:<4}{100 * part / whole if whole else 0:4.0f} %"


def main() -> None:
    """Run what was asked for and print it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ports", nargs="+", default=["linen"], choices=qwen2.PORTS)
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--modes", nargs="+", default=["jit"], choices=("jit", "eager"))
    parser.add_argument("--faults", nargs="*", default=list(FAULTS))
    parser.add_argument("--verbose", action="store_true", help="also what was said of each fault")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", message="Explicitly requested dtype")
    every: dict[str, list[Outcome]] = {}
    with tempfile.TemporaryDirectory(prefix="firstdiff-") as scratch:
        for title, found in runs(arguments, Path(scratch)):
            print("\n".join(table(title, found)), flush=True)
            every.setdefault(title.split()[0], []).extend(found)
            for o in found:
                if o.fault and (arguments.verbose or o.cause != "named" or not o.placed):
                    place = "" if o.placed else " MISPLACED"
                    print(f"    {o.fault} ({FAULTS[o.fault].cause}): {o.cause}{place}: {o.words}")
    for dtype, found in every.items():
        print("\n".join(table(f"{dtype}, all settings", found)))


if __name__ == "__main__":
    main()
