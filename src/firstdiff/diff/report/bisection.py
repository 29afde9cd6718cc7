"""A bisection on a terminal: a line a question, then the answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from firstdiff.diff.report.format import score_text

if TYPE_CHECKING:
    from firstdiff.diff.bisection import Bisection, Step


def step_line(step: Step) -> str:
    """`run 3  free run, what layers.12 receives: agrees, error / floor 0.8`."""
    run = f"run {step.number}  " if step.number else ""
    verdict = "agrees" if step.agrees else "DIVERGES"
    score = "" if step.score is None else f", error / floor {score_text(step.score)}"
    meaning = f"; {step.meaning}" if step.meaning else ""
    return f"{run}{step.question}: {verdict}{score}{meaning}"


def closing_lines(result: Bisection) -> list[str]:
    """What a bisection found, what it took, and what it could not tell."""
    ran = f"{result.runs} runs" if result.runs else "two traces"
    lines = [result.summary, *_place(result), *_beyond(result)]
    lines.append(f"{ran}, {result.depth} places to cut, {result.compared} activations compared.")
    return [*lines, *(f"Note: {note}" for note in result.notes)]


def _place(result: Bisection) -> list[str]:
    """Module, function and line, as far as they are known."""
    lines = [f"In the port: {result.port_line}."] if result.port_line else []
    if result.weights:
        lines.append(f"Weights: {result.weights}.")
    if result.inside is not None and result.inside.spots:
        lines.append(f"Function: {result.inside.summary}")
    return [*lines, *([result.called] if result.called else [])]


def _beyond(result: Bisection) -> list[str]:
    if not result.exit_code:
        return []
    if result.beyond == "none":
        return [f"All faults with an effect lie in {result.block}, or before it."]
    if result.beyond == "faults":
        return [
            f"More faults lie after {result.block}, the last of them in {result.last_block}; "
            "firstdiff replay lists each."
        ]
    return [
        "Whether more faults lie behind it cannot be told from this; firstdiff replay lists each."
    ]
