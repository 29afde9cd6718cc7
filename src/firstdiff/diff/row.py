"""A row of the result: one activation with everything that was found out about it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from firstdiff.diff.align import Pair, Unmatched
    from firstdiff.diff.floor import Floor
    from firstdiff.diff.judge import Verdict
    from firstdiff.diff.layout import Layout
    from firstdiff.diff.measure import Measurement
    from firstdiff.diff.origin import Origin
    from firstdiff.traces.schema import Activation, Key


@dataclass(frozen=True)
class Row:
    """One pair, or one activation without a partner."""

    name: str
    """Module path as people say it: the reference's (the port's for an extra one) without its outer wrapper."""
    verdict: Verdict
    """What is said of it."""
    pair: Pair | None = None
    """The two activations; None for a missing or extra one."""
    unmatched: Unmatched | None = None
    """The activation without a partner; None for a pair."""
    layout: Layout | None = None
    """How the port's elements lie on the reference's; None when they were not laid on each other."""
    measurement: Measurement | None = None
    """The figures; None when the pair could not be measured."""
    floor: Floor | None = None
    """The rounding floor that it was judged by; None for what is compared exactly."""
    healed: str = ""
    """For a divergence without effect: the path of the later module output that agrees; else empty."""
    duplicate_of: int | None = None
    """Reference order of an earlier row with the very same two values; None for a value of its own."""
    origin: Origin | None = None
    """Its error in two parts, inherited and added here; None where no floating-point error was measured."""

    @property
    def activation(self) -> Activation:
        """The reference's activation, or the port's for an extra one."""
        if self.pair is not None:
            return self.pair.reference
        assert self.unmatched is not None, "a row has a pair or an unmatched activation"
        return self.unmatched.activation

    @property
    def key(self) -> Key:
        """Its key."""
        return self.activation.key

    @property
    def side(self) -> Literal["both", "reference", "port"]:
        """Where it exists."""
        return "both" if self.unmatched is None else self.unmatched.side

    @property
    def diverges(self) -> bool:
        """Whether it is a divergence of its own: not healed, and no repetition of an earlier value."""
        return self.verdict.bad and not self.healed and self.duplicate_of is None

    def noted(self, note: str) -> Row:
        """The row with one phrase more in its verdict; itself for an empty one."""
        if not note:
            return self
        return replace(self, verdict=replace(self.verdict, notes=(*self.verdict.notes, note)))

    @property
    def label(self) -> str:
        """Site and leaf, call and step where they say something: `input hidden_states`, `output`, `output call 1`."""
        key = self.key
        call = f" call {key.call}" if key.call else ""
        step = f" step {key.step}" if key.step else ""
        leaf = f" {key.leaf}" if key.leaf not in ("", key.site) else ""
        return f"{key.site}{leaf}{call}{step}"
