"""Binary search over the depth of a model: its records, and the part that needs neither model nor file.

Two questions are asked of a model cut between its blocks. *Free*: does what crosses cut k agree in the port's own
run? The first cut that does not has the first fault before it: prefix search. *Planted*: does the result agree
when the port goes on from cut k with the reference's values? If so, every fault with an effect lies before k, if
not, one lies at or after it: suffix search, which no divergence that heals can mislead.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from firstdiff.diff.inside.answer import Zoom
    from firstdiff.diff.locate import Finding
    from firstdiff.diff.row import Row

Free = Callable[[Sequence[int]], Sequence[bool]]
"""Whether each of these cuts agrees in the port's own run; one run, or one reading, for all of them."""


@dataclass(frozen=True)
class Step:
    """One question and its answer."""

    number: int
    """The run that answered it, from 1; 0 where two traces are read."""
    question: str
    """What was done and looked at: `free run, what layers.3 receives`."""
    agrees: bool
    """Whether port and reference agree there."""
    score: float | None
    """The largest error / floor there; None where values were compared exactly."""
    activations: int
    """How many activations were compared."""
    meaning: str = ""
    """What follows: `the first fault lies before it`."""


@dataclass(frozen=True)
class Bisection:
    """What a bisection found."""

    reference: str
    """The reference's trace."""
    port: str
    """The port: its trace, or the subject as the user wrote it."""
    depth: int
    """Places between blocks at which the model could be cut, its result included."""
    steps: tuple[Step, ...]
    """Every question in order."""
    runs: int
    """How often the port ran; 0 for two traces."""
    compared: int
    """Activations compared over all steps."""
    finding: Finding | None
    """The first fault; None when the result agrees."""
    rows: tuple[Row, ...]
    """The rows of the block that was found."""
    block: str = ""
    """The block in which the first fault lies, as people name it."""
    last_block: str | None = None
    """The last block with a fault, where planting told; None where it could not be asked."""
    beyond: Literal["none", "faults", "unknown"] = "unknown"
    """Whether faults with an effect lie after `block`; unknown for two traces."""
    monotone: bool = True
    """False when an early divergence healed, so that a binary search alone would have been misled."""
    summary: str = ""
    """The answer in one sentence."""
    weights: str = ""
    """What is wrong with the weights of the module that was found; empty where they are right, or unknown."""
    inside: Zoom | None = None
    """The function that is wrong, on both sides; None where nothing looked inside the module."""
    called: str = ""
    """Where the reference's functions are not known: those of the port that make the first wrong value."""
    notes: tuple[str, ...] = ()
    """Sentences for people."""

    @property
    def exit_code(self) -> int:
        """0 when the result agrees, 1 when it does not."""
        return 1 if self.finding is not None or self.block else 0

    @property
    def first(self) -> Row | None:
        """The row of the first fault."""
        if self.finding is None:
            return None
        order = self.finding.order
        return next(row for row in self.rows if row.activation.order == order)

    @property
    def port_line(self) -> str:
        """Where in the port the first wrong value is: `result of mlp.down_proj (Dense), called at port.py:74`."""
        row = self.first
        if row is None or row.pair is None:
            return ""
        port = row.pair.port
        kind = f" ({port.class_name})" if port.class_name else ""
        module = f"{port.key.path or 'the model'}{kind}"
        line = port.source.replace("\\", "/").rpartition("/")[2]
        if port.key.site == "input":
            return f"handed to {module}" + (f" at {line}" if line else "")
        return f"result of {module}" + (f", called at {line}" if line else "")

    def as_dict(self) -> dict[str, Any]:
        """Everything in plain JSON types."""
        from firstdiff.diff.report.json import plain

        found: dict[str, Any] = {
            "exit_code": self.exit_code,
            "port_line": self.port_line,
            **plain(self),
        }
        return found


@dataclass(frozen=True)
class Depth:
    """Between which neighbouring cuts the first fault lies."""

    good: int
    """The cut before the fault: what crosses it agrees."""
    bad: int
    """The cut after it: what crosses it does not."""
    healed: tuple[int, ...] = ()
    """Cuts that differ and whose difference is gone at a later one."""


def narrow(free: Free, good: int, bad: int) -> tuple[int, int]:
    """Neighbouring cuts between ``good``, which agrees, and ``bad``, which does not: log2 of the distance questions."""
    while bad - good > 1:
        middle = (good + bad) // 2
        if free([middle])[0]:
            good = middle
        else:
            bad = middle
    return good, bad


def search_depth(free: Free, end: int, *, scan: Callable[[int], int] | None = None) -> Depth:
    """Where the first fault lies among cuts 0 to ``end``, of which the last is known to differ.

    A difference that is gone at one of the cuts 1, 2, 4, ... further on has healed, and the search goes on after
    that. ``scan`` is asked then instead, where it is cheap: it gives the last cut after this one that agrees.
    """
    healed: list[int] = []
    good, bad = narrow(free, 0, end)
    while True:
        later = later_agreement(free, bad, end)
        if later is None:
            return Depth(good, bad, tuple(healed))
        healed.append(bad)
        good, bad = narrow(free, later, end) if scan is None else _beside(scan(later))
        if scan is not None:
            return Depth(good, bad, tuple(healed))


def _beside(good: int) -> tuple[int, int]:
    return good, good + 1


def later_agreement(free: Free, bad: int, end: int) -> int | None:
    """The furthest of the cuts 1, 2, 4, ... after ``bad`` and before ``end`` that agrees, or None."""
    places = []
    distance = 1
    while bad + distance < end:
        places.append(bad + distance)
        distance *= 2
    answers = free(places) if places else ()
    return max((p for p, agrees in zip(places, answers, strict=True) if agrees), default=None)


def last_fault(planted: Callable[[int], bool], first: int, end: int) -> int:
    """The last cut from which the port does not reach the right result, given that ``first`` is one and ``end`` none.

    The last fault with an effect lies between it and the next cut.
    """
    bad, good = first, end
    while good - bad > 1:
        middle = (bad + good) // 2
        if planted(middle):
            good = middle
        else:
            bad = middle
    return bad
