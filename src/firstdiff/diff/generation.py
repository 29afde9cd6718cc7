"""Decoding seen from outside: which tokens two runs choose, by what margin, and how far they can be compared.

Apart from the comparison of activations: a token is a choice, and two choices may differ though every logit agrees.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import TYPE_CHECKING

import numpy as np

from firstdiff.diff.judge import WARN

if TYPE_CHECKING:
    from collections.abc import Sequence

    from firstdiff.diff.row import Row
    from firstdiff.traces import Activation, Trace


@dataclass(frozen=True)
class Choice:
    """The next token after one step, in one row."""

    step: int
    """The step whose logits choose it; 0 is the prompt."""
    row: int
    """Row of the batch."""
    position: int
    """Its column, the prompt's first token being 0."""
    reference: int
    """What the reference takes for the most likely token."""
    port: int
    """What the port does."""
    margin: float
    """Logit of the reference's best token less that of its second best."""
    gap: float
    """Logit, in the reference, of its best token less that of the port's."""
    floor: float
    """What rounding does to the difference of two logits."""

    @property
    def tie(self) -> bool:
        """Whether rounding alone may exchange the two tokens."""
        return self.gap <= WARN * self.floor

    @property
    def sentence(self) -> str:
        """In words, the margin as a multiple of the floor."""
        times = (
            f"{self.margin / self.floor:.2g} times the floor" if self.floor else "the floor is 0"
        )
        found = (
            f"step {self.step}, row {self.row}, the token at position {self.position}: the reference takes "
            f"{self.reference}, the port {self.port}; margin between the two best {self.margin:.3g}, {times}"
        )
        return f"{found}: a tie, no fault" if self.tie else found


@dataclass(frozen=True)
class Generation:
    """The decoding of both runs."""

    steps: int
    """Steps that were compared after the prompt."""
    choices: int
    """Tokens compared, over all steps and rows."""
    differing: tuple[Choice, ...] = ()
    """Where another token is the most likely one, in order."""
    stopped: str = ""
    """Why later steps were not compared; empty when all were."""

    @property
    def sentence(self) -> str:
        """For people: do the tokens agree, and where not."""
        said = f"Decoding: {self.steps} steps"
        if not self.choices:
            words = f"{said}; no logits to choose tokens from."
        elif not self.differing:
            words = (
                f"{said}, the same most likely token in {self.choices} of {self.choices} places."
            )
        else:
            first = next((c for c in self.differing if not c.tie), self.differing[0])
            more = f"; {len(self.differing) - 1} more differ" if len(self.differing) > 1 else ""
            words = f"{said}, first other token after {first.sentence}{more}."
        return f"{words} {self.stopped}".rstrip()


def last_common_step(reference: Trace, port: Trace) -> tuple[int | None, str]:
    """The last step that both runs did on the same tokens, None for all of them; and why later ones do not count."""
    found = [trace.header.extra.get("decoding") for trace in (reference, port)]
    if found == [None, None]:
        return None, ""
    ours, theirs = ((side or {}).get("tokens", []) for side in found)
    both = min(len(ours), len(theirs))
    same = next((n for n in range(both) if ours[n] != theirs[n]), both)
    if same < both:
        return same, f"From step {same + 1} on the two ran different tokens, and were not compared."
    if len(ours) != len(theirs):
        return same, f"Compared up to step {same}: the {_shorter(ours, theirs)} has no more."
    return None, ""


def _shorter(ours: Sequence[object], theirs: Sequence[object]) -> str:
    return "reference" if len(ours) < len(theirs) else "port"


def up_to(activations: Sequence[Activation], last: int | None) -> Sequence[Activation]:
    """Those of steps up to ``last``."""
    return activations if last is None else [a for a in activations if a.key.step <= last]


def generation(
    rows: Sequence[Row], reference: Trace, port: Trace, stopped: str
) -> Generation | None:
    """What the two runs would say next after each step; None where neither decodes."""
    if "decoding" not in reference.header.extra and "decoding" not in port.header.extra:
        return None
    ids = reference.inputs.get("input_ids")
    prompt = ids.shape[-1] if ids is not None else 0
    found = [row for row in rows if _is_logits(row)]
    places = [_choices(row, reference, port, prompt) for row in found]
    steps = max((row.key.step for row in rows if row.side != "port"), default=0)
    differing = [c for choices in places for c in choices if c.reference != c.port]
    return Generation(steps, sum(map(len, places)), tuple(differing), stopped)


def _is_logits(row: Row) -> bool:
    key, pair = row.key, row.pair
    if pair is None or key.path or key.site != "output" or key.leaf not in ("", "logits", "0"):
        return False
    return pair.reference.place is not None and pair.port.place is not None


def _choices(row: Row, reference: Trace, port: Trace, prompt: int) -> list[Choice]:
    pair, floor = row.pair, row.floor
    assert pair is not None, "a row of logits is a pair"
    if pair.reference.shape != pair.port.shape or len(pair.reference.shape) not in (2, 3):
        return []
    ours, theirs = (
        values if values.ndim == 2 else values[:, -1]
        for values in (reference.values(pair.reference), port.values(pair.port))
    )
    step, relative = row.key.step, floor.relative if floor is not None else 0.0
    return [
        _choice(step, n, prompt + step, ours[n].astype(np.float64), theirs[n], relative)
        for n in range(len(ours))
        if np.isfinite(ours[n]).all() and np.isfinite(theirs[n]).all()
    ]


def _choice(
    step: int, row: int, position: int, ours: np.ndarray, theirs: np.ndarray, relative: float
) -> Choice:
    best, other = int(ours.argmax()), int(theirs.argmax())
    second, first = np.partition(ours, -2)[-2:]
    noise = sqrt(2) * relative * float(np.sqrt(np.mean(ours**2)))
    gap = float(ours[best] - ours[other])
    return Choice(step, row, position, best, other, float(first - second), gap, noise)
