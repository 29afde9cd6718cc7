"""The result of a comparison, as data. Reports render it and compute nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

    from firstdiff.diff.explain import Explanation, Suspicion
    from firstdiff.diff.generation import Generation
    from firstdiff.diff.hidden import Hidden
    from firstdiff.diff.inputs import InputCheck
    from firstdiff.diff.inside.answer import Zoom
    from firstdiff.diff.locate import Finding
    from firstdiff.diff.row import Row
    from firstdiff.diff.vacuity import Vacuity
    from firstdiff.diff.weights.weighed import Weighed
    from firstdiff.traces.schema import Header


@dataclass(frozen=True)
class TraceSummary:
    """One of the two traces."""

    path: str
    """File name as it was given."""
    header: Header
    """What it knows about its making."""
    activations: int
    """How many it holds."""
    tokens: tuple[int, ...] | None
    """Shape of its `input_ids`, None when it has none."""
    floors: tuple[str, ...] = ()
    """Dtypes for which it holds a free noise floor."""
    digest_only: bool = False
    """Whether it kept no elements."""

    @property
    def functions(self) -> bool:
        """Whether functions were recorded too."""
        return bool(self.header.selection.get("level", "module") != "module")


@dataclass(frozen=True)
class Counts:
    """How many activations came to what."""

    pairs: int
    """Paired activations."""
    agree: int
    """Pairs that agree."""
    diverge: int
    """Pairs with a divergence of their own: not healed, not a repetition."""
    healed: int
    """Divergences without effect downstream."""
    repeated: int
    """Divergences that repeat an earlier one's values."""
    missing: int
    """The reference's activations that the port lacks."""
    extra: int
    """The port's that the reference lacks."""
    ignored: int = 0
    """Left out by the user's map, both sides together."""
    evidence: dict[str, int] = field(default_factory=dict)
    """Pairs by what they rest on."""
    layouts: dict[str, int] = field(default_factory=dict)
    """Pairs in another layout, by its name: `heads split`."""


@dataclass(frozen=True)
class Diff:
    """Everything that a comparison of two traces found."""

    reference: TraceSummary
    """The reference."""
    port: TraceSummary
    """The port."""
    inputs: InputCheck
    """The models' inputs compared."""
    dtype: str
    """The coarser run's dtype, whose floor the pairs are judged by."""
    floor: str
    """Where the floors come from: `recorded`, or the name of the stand-in."""
    counts: Counts
    """Rows by outcome."""
    rows: tuple[Row, ...]
    """Pairs and missing activations in the reference's order, then the extra ones in the port's."""
    finding: Finding | None
    """The first divergence; None when the port agrees."""
    worst: Row | None
    """The agreeing pair with the largest error / floor; None when none was judged by a floor."""
    summary: str
    """The verdict in one sentence."""
    notes: tuple[str, ...] = ()
    """Sentences for people, from both traces and from this comparison."""
    warnings: tuple[Vacuity, ...] = ()
    """What these inputs and weights cannot reveal, agreement or not."""
    hidden: Hidden | None = None
    """The size of fault that lies below the floor of this comparison; None where every value is equal."""
    suspicion: Suspicion | None = None
    """A mistake below the floor of bfloat16 or float16, known by its pattern, ahead of any divergence. It is a reason
    to repeat in float32, and changes no exit code."""
    weights: str = ""
    """Result of the comparison of the weights in a few words, when one was made."""
    audit: Weighed | None = None
    """The same in full; None where a trace keeps nothing of the weights."""
    cause: str = ""
    """Likely cause of the finding, when one was found."""
    explanation: Explanation | None = None
    """Why the first divergence diverges, certain or not; None without one, or where no elements were kept."""
    generation: Generation | None = None
    """The tokens that both would say; None where neither run decodes."""
    other_faults: str = ""
    """What a replay said about further faults, when there was one."""
    zoom: Zoom | None = None
    """The function that is wrong inside the module of the first divergence, where the reference's trace holds functions
    (`capture --level function`) and one was looked for."""
    next_step: str = ""
    """The command that looks into the module of the first divergence, function by function; empty without one."""

    def __repr__(self) -> str:
        """The verdict alone: what a prompt or a notebook shows of a result with hundreds of rows."""
        return f"<Diff: {self.summary}>"

    @property
    def exit_code(self) -> int:
        """0 when the port agrees, 1 when it diverges, or holds wrong weights that the inputs do not show."""
        damaged = self.audit is not None and bool(self.audit.wrong)
        return 1 if self.finding is not None or damaged else 0

    @property
    def first(self) -> Row | None:
        """The row of the first divergence."""
        if self.finding is None:
            return None
        from firstdiff.diff.locate import row_of

        return row_of(self.finding, self.rows)

    def frame(self) -> pd.DataFrame:
        """One line a row, the columns of `report.table.COLUMNS`."""
        from firstdiff.diff.report.table import frame

        return frame(self.rows)

    def to_parquet(self, path: str | Path) -> Path:
        """Write `frame` to ``path`` and return it."""
        from firstdiff.diff.report.table import write_parquet

        return write_parquet(self.rows, path)

    def to_html(self, path: str | Path) -> Path:
        """Write a page that needs nothing else to ``path`` and return it."""
        from firstdiff.diff.report.html import write_html

        return write_html(self, path)

    def to_json(self) -> str:
        """The whole result as JSON, UTF-8, two spaces of indentation; NaN and infinities become null."""
        from firstdiff.diff.report.json import to_json

        return to_json(self)
