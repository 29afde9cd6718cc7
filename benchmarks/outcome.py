"""Whether what is said of one port is true: its place, its cause, and the rules that people use on the same traces."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from firstdiff.diff import diff
from firstdiff.diff.explain import explain_row
from firstdiff.models.faults import find
from firstdiff.traces import Trace, open_trace
from firstdiff.traces.padding import padding_mask
from rules import first_failures

if TYPE_CHECKING:
    from pathlib import Path

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
CONVERSIONS = {"gpt2_qkv_order", "gpt2_qkv_by_head"}
"""Faults in functions that cut the checkpoint's weights."""


@dataclass(frozen=True)
class Outcome:
    """One port, right or wrong."""

    fault: str
    """Name of the fault; empty for a right port."""
    alarm: bool
    """Whether anything was called a divergence."""
    placed: bool
    """Whether the first one is where the fault is; of a harmless fault, whether the first that differs is."""
    told_there: bool
    """Whether the weights that are named as the cause are those of the fault's module."""
    cause: str
    """`named`, `coarse`, `audit` (by the weights alone), `hinted`, `none` or `WRONG`."""
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
    cause, words, told_there = audited(result, cause, words, fault)
    alarm = result.finding is not None
    doubt = result.suspicion
    there = doubt is not None and fault is not None
    there = there and (doubt.name, doubt.site) == (fault.activation, fault.site)
    if doubt is not None and cause == "none" and fault is not None and doubt.cause == fault.cause:
        cause = "hinted"
    name = fault.name if fault else ""
    placed = is_place(first, fault)
    return Outcome(name, alarm, placed, told_there, cause, rules, words, doubt is not None, there)


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


def audited(result: Diff, cause: str, words: str, fault: Fault | None) -> tuple[str, str, bool]:
    """``cause`` and ``words`` in the light of the weights, whose cause is the one that is told; and whether it is
    of the fault's module."""
    blamed = result.audit.cause if result.audit is not None else ()
    if not blamed:
        return cause, words, False
    told_there = fault is not None and any(
        v.module.removeprefix("model.") == fault.module for v in blamed
    )
    if fault is None or (fault.weights is None and fault.name not in CONVERSIONS):
        return "WRONG", result.cause, told_there
    return (cause, words, told_there) if cause == "named" else ("audit", result.cause, told_there)


def mask_of(trace: Trace) -> np.ndarray | None:
    """The real tokens."""
    return padding_mask({name: trace.input_values(name) for name in trace.inputs})


def checksums(path: Path) -> list[int]:
    """Of every activation of a trace."""
    with open_trace(path) as trace:
        return [a.digest.checksum for a in trace.activations if a.digest is not None]
