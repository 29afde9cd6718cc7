"""The answer of a zoom into one module: the culprit on both sides, and what was matched. Plain data for reports."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from firstdiff.diff.report.json import dump

if TYPE_CHECKING:
    from firstdiff.traces.schema import Level

SideName = Literal["reference", "port"]


@dataclass(frozen=True)
class Spot:
    """A place in one side's source."""

    side: SideName
    """Whose source."""
    function: str
    """The function: `apply_rotary_pos_emb`, or the module's own code, `Qwen2Attention.forward`."""
    defined: str = ""
    """`file:line` of its definition, when known."""
    caller: str = ""
    """The function that calls it; empty for the module's own code."""
    called: str = ""
    """`file:line` of that call."""
    line: str = ""
    """`file:line` inside it that made the first wrong value, where operations were recorded or a call shows it."""
    value: str = ""
    """The first value of it that the other side lacks: `q`, `its result`, `argument mask of softmax`."""


@dataclass(frozen=True)
class InsideRow:
    """One value below the level of modules."""

    side: SideName
    """Where it is."""
    order: int
    """Its place in that side's execution order."""
    level: Level
    """`function` or `op`."""
    name: str
    """Function or operation."""
    label: str
    """`input q`, `output 0`."""
    shape: tuple[int, ...]
    """Its shape."""
    dtype: str
    """Its dtype."""
    verdict: Literal["equal", "no equal", "not compared"]
    """Whether the other side has this value, in whatever layout."""
    source: str
    """`file:line`: of a function where it is called, of an operation where it stands."""
    caller: str = ""
    """The function whose code that is."""
    partner: str = ""
    """The other side's function or operation with this value."""


@dataclass(frozen=True)
class Zoom:
    """What a zoom into one module found."""

    module: str
    """The module, as the reference spells it without its outer wrapper; ``""`` is the model itself."""
    reference: str
    """The reference, as it was named."""
    port: str
    """The port, as it was named."""
    tap: str = ""
    """The first wrong value that leaves the module's own code: `o_proj input`; empty when all are right."""
    spots: tuple[Spot, ...] = ()
    """The reference's function, then the port's; empty when nothing is wrong."""
    nearest: str = ""
    """What in the port resembles the reference's first unmatched value most, and where the two agree."""
    computed: bool = False
    """Whether the port does compute the reference's value, and goes on with another one."""
    numbers: tuple[float, float] | None = None
    """The reference's number and the port's, where a plain number is wrong."""
    rows: tuple[InsideRow, ...] = ()
    """Every value inside the module, the reference's in its order, then the port's."""
    notes: tuple[str, ...] = ()
    """Sentences for people."""
    seconds: float = 0.0
    """Wall time that it took."""

    @property
    def exit_code(self) -> int:
        """0 when the module's own code is right, 1 when it is not."""
        return 1 if self.spots else 0

    @property
    def summary(self) -> str:
        """The answer in one or two sentences."""
        where = self.module or "the model"
        if not self.spots:
            matched = sum(row.verdict == "equal" for row in self.rows)
            return (
                f"The code of {where} agrees with the reference: given right inputs, everything that it hands on is "
                f"right; {matched} values inside were matched."
            )
        ours = next((s for s in self.spots if s.side == "reference"), None)
        theirs = next((s for s in self.spots if s.side == "port"), None)
        sentences = []
        if ours is not None:
            sentences.append(f"{spoken(ours)} {self._fate()}.")
        if theirs is not None:
            sentences.append(f"In the port it goes wrong in {named(theirs)}{_reached(theirs)}.")
        return " ".join(sentences)

    def _fate(self) -> str:
        """What becomes of the reference's value in the port."""
        if self.numbers is not None:
            return "is {:.4g}, in the port {:.4g}".format(*self.numbers)
        if self.computed:
            place = f" ({self.nearest})" if self.nearest else ""
            return f"is computed in the port too{place}, which goes on with another value"
        nearest = f"; its nearest is {self.nearest}" if self.nearest else ""
        return f"has no equal in the port{nearest}"

    def to_json(self) -> str:
        """The whole result as JSON, UTF-8."""
        return dump({"exit_code": self.exit_code, "summary": self.summary}, self)


def short(place: str) -> str:
    """`modeling_qwen2.py:105` of a whole path."""
    return place.replace("\\", "/").rpartition("/")[2]


def named(spot: Spot) -> str:
    """`apply_rotary_pos_emb (modeling_qwen2.py:105)`."""
    place = short(spot.defined or spot.line)
    return f"{spot.function} ({place})" if place else spot.function


def spoken(spot: Spot) -> str:
    """`q after apply_rotary_pos_emb (modeling_qwen2.py:105)`."""
    return f"{spot.value} after {named(spot)}" if spot.caller else f"{spot.value} in {named(spot)}"


def _reached(spot: Spot) -> str:
    at = f" at {short(spot.called)}" if spot.called else ""
    called = f", called by {spot.caller}{at}" if spot.caller else ""
    line = f", at {short(spot.line)}" if spot.line and spot.line != spot.called else ""
    return f"{line}{called}"
