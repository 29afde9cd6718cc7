"""The differ: two traces in, where the port first goes wrong out. Offline: numpy, pandas, pyarrow; never torch or jax.

The package can be called: ``firstdiff.diff(a, b)`` is `run.diff`. Importing any part of this package makes
Python set the attribute `diff` of `firstdiff` to the package itself, which would hide the function of that name; a
callable package means the same thing before and after.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from firstdiff.diff.align import Alignment, Pair, Unmatched, align
from firstdiff.diff.floor import Floor
from firstdiff.diff.inputs import InputCheck, check_inputs
from firstdiff.diff.judge import FAIL, WARN, Verdict
from firstdiff.diff.layout import Layout
from firstdiff.diff.locate import Finding, locate
from firstdiff.diff.measure import Measurement, NonFinite, measure
from firstdiff.diff.pattern import Pattern
from firstdiff.diff.result import Counts, Diff, TraceSummary
from firstdiff.diff.row import Row
from firstdiff.diff.run import diff

__all__ = [
    "FAIL", "WARN", "Alignment", "Counts", "Diff", "Finding", "Floor", "InputCheck", "Layout", "Measurement",
    "NonFinite", "Pair", "Pattern", "Row", "TraceSummary", "Unmatched", "Verdict", "align", "check_inputs", "diff",
    "locate", "measure",
]  # fmt: skip


class _CallablePackage(ModuleType):
    """This package, which compares two traces when it is called."""

    def __call__(self, *args: Any, **kwargs: Any) -> Diff:
        return diff(*args, **kwargs)


sys.modules[__name__].__class__ = _CallablePackage
