"""The audit: did the port load the reference's weights, all of them, each in its place and the right way round?"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from firstdiff.diff.weights.judge import Judge
from firstdiff.diff.weights.leftover import Leftovers
from firstdiff.diff.weights.search import Found, search
from firstdiff.diff.weights.untold import WORDS
from firstdiff.diff.weights.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

    from firstdiff.diff.weights.match import Match, Side
    from firstdiff.traces.parameters import Parameter


@dataclass(frozen=True)
class Audit:
    """A verdict for every parameter of both sides."""

    verdicts: tuple[Verdict, ...]
    """The reference's in its own order, then what only the port has."""
    parameters: int
    """Reference parameters that were to be loaded."""
    found: Found
    """What the verdicts rest on."""

    @property
    def wrong(self) -> tuple[Verdict, ...]:
        """What is to be repaired."""
        return tuple(v for v in self.verdicts if v.status == "wrong")

    @property
    def notes(self) -> tuple[Verdict, ...]:
        """What is right only if the port's code does as its weights do, or is harmless."""
        return tuple(v for v in self.verdicts if v.status == "note")

    @property
    def right(self) -> int:
        """Reference parameters of which nothing is wrong."""
        names = {v.reference.split(" ")[0].split("[")[0] for v in self.wrong if v.reference}
        return self.parameters - len(names)

    @property
    def exit_code(self) -> int:
        """0 all is loaded rightly, 1 something is wrong."""
        return 1 if self.wrong else 0

    def counts(self) -> Counter[str]:
        """Number of verdicts by finding."""
        return Counter(v.finding for v in self.verdicts)

    def frame(self) -> pd.DataFrame:
        """One row a verdict."""
        import pandas as pd

        return pd.DataFrame(
            [asdict(v) for v in self.verdicts], columns=list(Verdict.__dataclass_fields__)
        )

    def as_dict(self) -> dict[str, Any]:
        """Everything, as plain JSON types."""
        return {
            "parameters": self.parameters,
            "right": self.right,
            "wrong": len(self.wrong),
            "exit_code": self.exit_code,
            "counts": dict(self.counts()),
            "verdicts": [asdict(v) for v in self.verdicts],
        }

    def to_json(self) -> str:
        """`as_dict` as JSON text."""
        return json.dumps(self.as_dict(), indent=2)


def audit(reference: Sequence[Parameter] | Side, port: Sequence[Parameter] | Side) -> Audit:
    """Look for every parameter of ``reference`` in ``port``, by value, and judge what was found.

    Memory: a few parameters at a time. Both sides are read once; parameters without an equal, again.
    """
    return judge(search(reference, port))


def judge(found: Found) -> Audit:
    """The verdicts of a search."""
    bench = Judge(found)
    rest = Leftovers(found, bench)
    matched = {m.reference for m in found.matches}
    by_number: dict[int, list[Verdict]] = {}
    pieces: dict[int, list[Match]] = {}
    for match in found.matches:
        pieces.setdefault(match.reference, []).append(match)
    for number, matches in pieces.items():
        lost = bench.partial(matches)
        if lost is not None and number in rest.untold.reference:
            lost = replace(lost, status="note", words=lost.words + WORDS, remedy="")
        verdicts_of = [bench.verdict(match) for match in matches]
        alone = lost is not None and len(matches) == 1 and verdicts_of[0].status != "wrong"
        by_number[number] = ([] if alone else verdicts_of) + ([lost] if lost is not None else [])
    for number in range(len(found.reference)):
        if number not in matched:
            by_number[number] = [rest.missing(number)]
    verdicts = [v for number in range(len(found.reference)) for v in by_number[number]]
    extra = rest.extra()
    loaded = len(found.reference) - sum(v.finding == "computed" for v in verdicts)
    return Audit((*verdicts, *extra), loaded, found)
