"""Exchanged weights or lying names: both pairings are replayed, and the one that leaves less wrong counts.

Behind a fault a free comparison cannot tell them apart, since nothing agrees there. On right inputs it shows: what
follows an exchange of weights is right by name, what follows a lying name is right by weights. Apart from
the modules that run a replay; here two are weighed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from firstdiff.diff.weights.applied import exchanged_modules
from firstdiff.diff.weights.blame import MOVED
from firstdiff.diff.weights.evidence import Weighing, matchers_of, weigh

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from firstdiff.diff import Diff
    from firstdiff.diff.replayed import Replay, ReplayRow
    from firstdiff.diff.row import Row
    from firstdiff.traces import Trace


@dataclass(frozen=True)
class Contested:
    """Modules that weights pair in one way and names in another, while nothing tells which is right."""

    modules: tuple[str, ...]
    """The reference's."""
    named: tuple[Row, ...]
    """The rows of the free comparison, with these modules paired by name."""

    def names_win(self, weighed: Iterable[ReplayRow], named: Iterable[ReplayRow]) -> bool:
        """Whether the replay by name leaves no more wrong than the one by weights.

        Results of the contested modules do not count: by weights they are right whatever is exchanged.
        """
        return self._wrong(named) <= self._wrong(weighed)

    def sentence(self, *, names: bool) -> str:
        """What was decided, for people."""
        shown = ", ".join(self.modules[:3])
        more = f" and {len(self.modules) - 3} more" if len(self.modules) > 3 else ""
        decided = (
            "by name less is wrong, or no more, so the weights are taken for exchanged"
            if names
            else "by weights less is wrong, so the names are taken for exchanged"
        )
        return (
            f"names and weights contradict each other: {shown}{more}; both were replayed: {decided}"
        )

    def _wrong(self, rows: Iterable[ReplayRow]) -> int:
        return sum(
            r.row.verdict.bad and not r.row.healed
            for r in rows
            if r.row.key.site == "input" or r.row.key.path not in self.modules
        )


def contested(
    free: Diff, ours: Trace, theirs: Trace, path_map: str | Path | None
) -> Contested | None:
    """What ``free`` paired by weights against names, behind or at a divergence; None when nothing was."""
    if free.finding is None or not _crossed(free):
        return None
    weighing = weigh(ours, theirs)
    if not isinstance(weighing, Weighing):
        return None
    from firstdiff.diff import diff

    modules = exchanged_modules(weighing)
    again = diff(ours, theirs, map=path_map, matchers=matchers_of(weighing, modules))
    return Contested(modules, again.rows)


def _crossed(free: Diff) -> bool:
    """Whether a module whose weights lie in another's place is paired by them."""
    if free.audit is None:
        return False
    moved = {v.module for v in (*free.audit.wrong, *free.audit.notes) if v.finding in MOVED}
    by_weights = (r for r in free.rows if r.pair is not None and r.pair.evidence == "weights")
    return any(row.key.path in moved for row in by_weights)


def settled(
    weighed: Replay, doubt: Contested | None, again: Callable[[Sequence[Row]], Replay]
) -> Replay:
    """``weighed``, or the replay of the pairs by name where weights and names are in ``doubt`` and names say more."""
    if doubt is None:
        return weighed
    named = again(doubt.named)
    names = doubt.names_win(weighed.rows, named.rows)
    result, first, then = named if names else weighed, weighed.cost, named.cost
    forced, passes = first.forced + then.forced, first.passes + then.passes
    return replace(
        result,
        cost=replace(result.cost, free=first.free, forced=forced, passes=passes),
        notes=(*result.notes, doubt.sentence(names=names)),
    )
