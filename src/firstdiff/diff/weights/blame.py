"""Weights in the light of activations: which damage explains the first divergence, and which the port's code undoes.

The audit alone cannot know whether code goes with its weights: a kernel may be transposed where it is used, gate and up
may merely be called by each other's names. What was computed with them tells.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from firstdiff.diff.weights.naming import is_embedding
from firstdiff.diff.weights.places import ancestors

if TYPE_CHECKING:
    from collections.abc import Sequence

    from firstdiff.diff.row import Row
    from firstdiff.diff.weights.audit import Audit
    from firstdiff.diff.weights.verdict import Verdict

Outcome = Literal["cause", "harmless", "unseen", "open"]
"""It explains the first divergence; what was computed with it agrees; these inputs cannot show it; not known."""

HARMLESS = frozenset({"computed", "neutral", "tied", "constant"})
"""Findings that cannot make a value wrong."""
MOVED = frozenset({"exchanged", "duplicated"})
"""Findings that the owner's own result does not contradict: it is right for the weights that it holds."""


@dataclass(frozen=True)
class Scene:
    """The comparison, as far as blame needs it."""

    rows: Sequence[Row]
    """All rows, the reference's in its order."""
    order: int | None
    """The reference's order of the first divergence; None when all agrees."""

    @property
    def result_agrees(self) -> bool:
        """Whether what the model returns was compared, and agrees."""
        return any(
            row.side == "both" and row.key.path == "" and row.key.site == "output" and _agrees(row)
            for row in self.rows
        )


def outcomes(audit: Audit, rows: Sequence[Row], order: int | None) -> dict[int, Outcome]:
    """For each verdict that is wrong or a note, by its number in ``audit.verdicts``: what the activations say of it."""
    blame = _Blame(audit, Scene(rows, order))
    return {
        number: blame.outcome(verdict)
        for number, verdict in enumerate(audit.verdicts)
        if verdict.status != "right" and verdict.finding not in HARMLESS
    }


class _Blame:
    def __init__(self, audit: Audit, scene: Scene) -> None:
        self.audit, self.scene = audit, scene
        self._outputs: dict[str, list[Row]] = {}
        self._first: dict[str, int] = {}
        self._ports: dict[str, str] = {}
        for row in scene.rows:
            if row.side == "port":
                continue
            path = row.key.path
            self._first.setdefault(path, row.activation.order)
            if row.key.site == "output":
                self._outputs.setdefault(path, []).append(row)
            if row.pair is not None:
                self._ports.setdefault(row.pair.port.key.path, path)
        self._tables = {
            p.name: p
            for p in audit.found.reference.parameters
            if is_embedding(p) or _expert(p.name)
        }

    def outcome(self, verdict: Verdict) -> Outcome:
        owners = self._owners(verdict)
        starts = [self._first[path] for path in owners if path in self._first]
        if self._contradicted(verdict, owners, starts):
            return "unseen" if self._local(verdict) else "harmless"
        order = self.scene.order
        if order is None:
            return "open"
        if verdict.finding in MOVED and self._given(owners, order):
            return "cause"
        if not starts or min(starts) > order:
            return "open"
        return "cause" if self._leads_to(verdict, owners, order) else "open"

    def _owners(self, verdict: Verdict) -> list[str]:
        """Reference paths of the modules that own the parameter, or hold its place in the port."""
        there = self._ports.get(verdict.port_module)
        found = [verdict.module] if verdict.reference else []
        return list(dict.fromkeys([*found, *([there] if there is not None else [])]))

    def _local(self, verdict: Verdict) -> bool:
        """Whether only some rows of a table differ: inputs that do not use them show nothing."""
        name = verdict.reference.split(" ")[0].split("[")[0]
        if verdict.finding not in ("differs", "partly") or name not in self._tables:
            return False
        return not self._shorter(verdict)

    def _shorter(self, verdict: Verdict) -> bool:
        """Whether the port's table merely ends earlier: positions or a vocabulary that were cut."""
        name, port = (
            text.split(" ")[0].split("[")[0] for text in (verdict.reference, verdict.port)
        )
        sizes = {p.name: p.size for p in self.audit.found.port.parameters}
        return port in sizes and sizes[port] < self._tables[name].size

    def _contradicted(self, verdict: Verdict, owners: list[str], starts: list[int]) -> bool:
        """Whether something that was computed with the parameter agrees with the reference."""
        if self.scene.order is None and self.scene.result_agrees:
            return True
        if verdict.finding not in MOVED and self._own_result_agrees(owners):
            return True
        around = {path for owner in owners for path in ancestors(owner)} - set(owners)
        if not starts:
            return False
        return any(
            _agrees(row) and row.activation.order > max(starts)
            for path in around
            if all(path in ancestors(owner) for owner in owners)
            for row in self._outputs.get(path, ())
        )

    def _own_result_agrees(self, owners: list[str]) -> bool:
        rows = [row for path in owners for row in self._outputs.get(path, ())]
        before = [
            row
            for row in rows
            if self.scene.order is None or row.activation.order < self.scene.order
        ]
        return bool(before) and all(map(_agrees, before))

    def _given(self, owners: list[str], order: int) -> bool:
        """Whether the first divergence is what a module around the owner was given: layers that are exchanged."""
        here = next(
            row for row in self.scene.rows if row.side != "port" and row.activation.order == order
        )
        around = {path for owner in owners for path in ancestors(owner)[:-1]}
        return here.key.site == "input" and here.key.path in around

    def _leads_to(self, verdict: Verdict, owners: list[str], order: int) -> bool:
        """Whether the first divergence is the owner's own result, or the next thing that can show its damage."""
        own = {row.activation.order for path in owners for row in self._outputs.get(path, ())}
        if order in own:
            return True
        compared = any(
            row.side == "both" and row.activation.order < order
            for path in owners
            for row in self._outputs.get(path, ())
        )
        return not compared or verdict.finding in MOVED


def _agrees(row: Row) -> bool:
    return row.side == "both" and row.verdict.kind == "agrees"


def _expert(name: str) -> bool:
    return "expert" in name
