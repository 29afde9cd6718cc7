"""`selfcheck`: one model against itself. No reference is needed, and each check is a known class of real bugs."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from firstdiff.feeding import choose_inputs, fit_inputs
from firstdiff.inapplicable import NotApplicable
from firstdiff.recording import as_subject
from firstdiff.selfchecks import CHECKS, Session
from firstdiff.traces.errors import CaptureError, InputMismatch, OptionError, SubjectError

if TYPE_CHECKING:
    from firstdiff.diff import Diff

Outcome = Literal["agrees", "diverges", "not applicable", "does not run"]


@dataclass(frozen=True)
class CheckRow:
    """One check."""

    name: str
    """What was compared with what."""
    outcome: Outcome
    """`does not run` where the model raised for one side of the comparison."""
    detail: str
    """The first divergence, the worst error / floor, or why it could not be checked."""
    diff: Diff | None = None
    """The whole comparison; None where there was none."""


@dataclass(frozen=True)
class SelfCheck:
    """Every check of one subject."""

    subject: str
    """As the user named it."""
    rows: tuple[CheckRow, ...]
    """In a fixed order, also those that do not apply."""

    @property
    def exit_code(self) -> int:
        """0 when everything that applies agrees, 1 when something diverges or does not run, 2 when nothing applies."""
        outcomes = {row.outcome for row in self.rows}
        if outcomes & {"diverges", "does not run"}:
            return 1
        return 0 if "agrees" in outcomes else 2

    def as_dict(self) -> dict[str, Any]:
        """Name, outcome and detail of each row, in plain JSON types."""
        rows = [{"name": r.name, "outcome": r.outcome, "detail": r.detail} for r in self.rows]
        return {"subject": self.subject, "exit_code": self.exit_code, "rows": rows}

    def lines(self) -> list[str]:
        """What the command line prints: a row a check."""
        wide = max(len(row.name) for row in self.rows)
        shown = {"diverges": "DIVERGES", "does not run": "DOES NOT RUN"}
        return [
            f"{row.name.ljust(wide)}  {shown.get(row.outcome, row.outcome).ljust(14)}  {row.detail}".rstrip()
            for row in self.rows
        ]


def selfcheck(
    subject: Any,
    *,
    inputs: str | Path | Mapping[str, Any] | None = None,
    only: Sequence[str] = (),
    dtype: str | None = None,
    mode: Literal["jit", "eager"] = "jit",
    framework: str | None = None,
    on_row: Callable[[CheckRow], None] = lambda _row: None,
    progress: Callable[[str], None] = lambda _message: None,
) -> SelfCheck:
    """Run ``subject`` in ways that must not matter, and compare each with the plain run.

    Args:
        subject: what `capture` takes. Checks that load it again need its name, not an object.
        inputs: as for `capture`; two unequally padded rows reveal most.
        only: names of checks; empty means all.
        dtype, framework: as for `capture`.
        mode: how JAX runs, but where that is what is checked.
        on_row: is told each result.
        progress: is told what is going on.

    Raises:
        SubjectError: the subject cannot be loaded, or does not run at all.
        OptionError: there is no check of a name in ``only``, or there are no inputs.
    """
    unknown = [name for name in only if name not in CHECKS]
    if unknown:
        raise OptionError(f"--only {unknown[0]}: no such check; there are {', '.join(CHECKS)}")
    progress("loading the model")
    given = as_subject(subject, dtype, framework)
    fitted, _ = fit_inputs(given, choose_inputs(given, inputs, None, None, None))
    spec = subject if isinstance(subject, str) else None
    with tempfile.TemporaryDirectory(prefix="firstdiff-selfcheck-") as folder:
        session = Session(given, fitted, Path(folder), spec, mode)
        progress("plain run")
        session.plain()
        rows = []
        for name in only or CHECKS:
            progress(name)
            rows.append(_row(name, session))
            on_row(rows[-1])
    return SelfCheck(given.name or "the model", tuple(rows))


def _row(name: str, session: Session) -> CheckRow:
    try:
        result = CHECKS[name](session)
    except NotApplicable as reason:
        return CheckRow(name, "not applicable", str(reason))
    except (SubjectError, CaptureError, InputMismatch) as error:
        return CheckRow(name, "does not run", str(error))
    outcome: Outcome = "agrees" if result.exit_code == 0 else "diverges"
    return CheckRow(name, outcome, _detail(result), result)


def _detail(result: Diff) -> str:
    if result.finding is not None:
        score = result.first.verdict.score if result.first is not None else None
        return result.summary + (f" Error / floor {score:.2g}." if score is not None else "")
    if result.worst is None or not result.worst.verdict.score:
        return f"{result.counts.agree} activations, every value equal"
    place = f"{result.worst.name or 'the model'} {result.worst.label}"
    return f"{result.counts.agree} activations, worst error / floor {result.worst.verdict.score:.2g} at {place}"
