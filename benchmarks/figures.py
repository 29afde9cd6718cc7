"""The figures of a run as lines of text."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from firstdiff.models.faults import find
from rules import RULES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from outcome import Outcome

TRUE = ("named", "audit")
"""Causes that are the whole truth."""


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
        f"  ... or told by the weights        {share(sum(o.placed or o.told_there for o in wrong), len(wrong))}",
        f"  suspected elsewhere               {share(elsewhere, len(wrong))}",
        f"  no fault in this dtype            {share(sum(o.same for o in wrong), len(wrong))}",
        f"  called a divergence, harmful      {share(sum(o.alarm for o in harmful), len(harmful))}",
        f"  called a divergence, harmless     {share(sum(o.alarm for o in harmless), len(harmless))}",
        f"  cause named                       {share(causes['named'], len(wrong))}",
        f"  ... or told by the weights        {share(sum(causes[c] for c in TRUE), len(wrong))}",
        f"  cause named coarsely              {share(causes['coarse'], len(wrong))}",
        f"  cause among three (or named)      {share(sum(causes[c] for c in (*TRUE, 'hinted')), len(wrong))}",
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
        whole = o.placed and o.alarm != o.harmless and (digest or o.cause in TRUE)
        if o.fault and (verbose or not whole):
            place = "" if o.placed else " suspected there" if o.suspected_there else " MISPLACED"
            place += ", equal to the right port" if o.same else ""
            alarm = "" if o.alarm != o.harmless else " ALARM" if o.alarm else " NO ALARM"
            yield f"    {o.fault} ({find(o.fault).cause}): {o.cause}{place}{alarm}: {o.words}"


def share(part: int, whole: int) -> str:
    """`18/19  95 %`."""
    return f"{part:>4}/{whole:<4}{100 * part / whole if whole else 0:4.0f} %"
