"""Explaining a divergence: from the first wrong tensor to a cause. Offline, numpy alone.

`explanation` is the order of things; `trial` the rule by which a cause is believed; `scene` what every hypothesis
reads; `faint` what lies below the rounding floor; one file for each kind of computation; `causes` the list of
everything that can be named.
"""

from __future__ import annotations

from firstdiff.diff.explain.explanation import (
    Explanation,
    Hint,
    explain,
    explain_row,
    explain_scene,
)
from firstdiff.diff.explain.faint import Suspicion, find_faint
from firstdiff.diff.explain.structure import Structure

__all__ = [
    "Explanation",
    "Hint",
    "Structure",
    "Suspicion",
    "explain",
    "explain_row",
    "explain_scene",
    "find_faint",
]
