"""Parameters without a match: missing, never loaded, duplicated; and what only the port has."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING

from firstdiff.diff.weights.grain import is_integer
from firstdiff.diff.weights.initial import describe, is_neutral
from firstdiff.diff.weights.naming import is_embedding, leaf_word
from firstdiff.diff.weights.untold import WORDS, Untold
from firstdiff.diff.weights.verdict import Finding, Status, Verdict
from firstdiff.diff.weights.whole import Unit

if TYPE_CHECKING:
    from firstdiff.diff.weights.judge import Judge
    from firstdiff.diff.weights.search import Found
    from firstdiff.traces.parameters import Parameter

_COMPUTED = (
    "inv_freq",
    "position_ids",
    "masked_bias",
    "token_type_ids",
    "cos_cached",
    "sin_cached",
    "causal_mask",
)
_COMPUTED_WORDS = frozenset(
    {"rope", "rotary", "cos", "sin", "freqs", "mask", "rng", "cache", "rngs", "count"}
)


def is_computed(parameter: Parameter) -> bool:
    """Whether a model's code makes it: masks, position ids, rotary tables, counters."""
    if parameter.kind == "computed" or parameter.leaf in _COMPUTED:
        return True
    words = set(parameter.name.casefold().replace("_", ".").split("."))
    if parameter.dtype == "bool" or (parameter.kind != "parameter" and is_integer(parameter.dtype)):
        return True
    square = len(parameter.shape) == 4 and parameter.shape[:2] == (1, 1)
    return (
        square
        or (is_integer(parameter.dtype) and bool(words & {"ids", "count", "tracked", "key"}))
        or (bool(words & _COMPUTED_WORDS) and parameter.leaf not in ("kernel", "weight"))
    )


class Leftovers:
    """Verdicts of what has no match."""

    def __init__(self, found: Found, judge: Judge) -> None:
        self.found, self.judge = found, judge
        self.copies: dict[Unit, int] = {unit: number for number, unit in found.copies}
        self.places: set[Unit] = set()
        self.untold = Untold(found)

    def missing(self, number: int) -> Verdict:
        """Of a reference parameter that was not found."""
        parameter = self.found.reference.parameters[number]
        unit = self.found.expected.get(number)
        if is_computed(parameter):
            return self._verdict(parameter, "", "computed", "made by the model's own code")
        if unit is None:
            return self._absent(number, parameter)
        self.places.add(unit)
        where = self.judge.labels.of_unit(unit)
        if unit in self.copies:
            other = self.found.reference.parameters[self.copies[unit]]
            words = f"{where} equals the reference's {other.name}, where {parameter.name} belongs"
            return self._verdict(
                parameter, where, "duplicated", words, f"load {parameter.name} there"
            )
        holder = self.judge.holders.get(unit)
        if holder is not None:
            other = self.found.reference.parameters[holder.reference]
            words = (
                f"{parameter.name} is not in the port: {where} equals the reference's {other.name}"
            )
            return self._verdict(parameter, where, "missing", words, f"load {parameter.name} there")
        state = describe(self.found.port, unit.number, unit.fixed)
        other_values = f"{where} is not the reference's {parameter.name}: other values"
        if number in self.untold.reference and not state.startswith("all "):
            return replace(
                self._verdict(parameter, where, "differs", other_values + WORDS), status="note"
            )
        drawn = state and not self.found.reference.prints[number].constant
        if state.startswith("all ") or (drawn and not self.untold.alike(number, unit.number)):
            words = self._unloaded(number, where, state)
            return self._verdict(
                parameter, where, "never loaded", words, f"load {parameter.name} there"
            )
        return self._verdict(
            parameter, where, "differs", other_values, f"load {parameter.name} there"
        )

    def _unloaded(self, number: int, where: str, state: str) -> str:
        if state.startswith("all "):
            return f"{where} was never loaded: {state}"
        if describe(self.found.reference, number):  # the reference itself is drawn like that
            name = self.found.reference.parameters[number].name
            return f"{where} is not {name}: never loaded, or of another checkpoint ({state})"
        return f"{where} was never loaded: its values look like an initialiser ({state})"

    def _absent(self, number: int, parameter: Parameter) -> Verdict:
        known = self.found.reference.prints[number]
        if is_neutral(known, leaf_word(parameter.leaf)):
            return self._verdict(
                parameter, "", "neutral", f"not in the port; all {known.max:g}, so nothing is lost"
            )
        if parameter.kind == "buffer" and parameter.leaf not in ("running_mean", "running_var"):
            return self._verdict(parameter, "", "computed", "a buffer that the port has not")
        where = self.found.expectation.part_elsewhere(number)
        if number in self.untold.reference:
            words = f"{parameter.name} has no equal in the port{WORDS}"
            return replace(self._verdict(parameter, where, "missing", words), status="note")
        if where:
            words = f"{where} does not hold the reference's {parameter.name}: other values"
            return self._verdict(parameter, where, "missing", words, f"load {parameter.name} there")
        tied = (
            " (tied to its embedding?); the reference's is a matrix of its own"
            if _is_head(parameter)
            else ""
        )
        words = f"{parameter.name} is missing: the port has no parameter with its values{tied}"
        return self._verdict(parameter, "", "missing", words, "load it, or add what uses it")

    def extra(self) -> list[Verdict]:
        """Of what only the port has: unused leaves, copies, an untied head."""
        used: dict[int, set[Unit]] = defaultdict(set)
        for match in self.found.matches:
            used[match.port].add(Unit(match.port, match.port_fixed))
        for unit in self.places:
            used[unit.number].add(unit)
        copied = {unit.number: number for unit, number in self.copies.items()}
        verdicts = []
        for number, parameter in enumerate(self.found.port.parameters):
            if number in used:
                verdicts += self._idle_slices(number, used[number])
            elif number in copied:
                verdicts.append(self._copy(number, copied[number]))
            else:
                verdicts.append(self._unused(number, parameter))
        return verdicts

    def _idle_slices(self, number: int, used: set[Unit]) -> list[Verdict]:
        """Slices of a stack that hold a copy of another layer's values and are nobody's place."""
        slices = [u for u in self.copies if u.number == number and u.fixed and u not in used]
        return [self._copy(number, self.copies[u], u) for u in slices if Unit(number) not in used]

    def _copy(self, number: int, reference: int, unit: Unit | None = None) -> Verdict:
        parameter = self.found.port.parameters[number]
        other = self.found.reference.parameters[reference]
        where = self.judge.labels.of_unit(unit or Unit(number))
        if is_embedding(other) and _is_head(parameter):
            words = f"a copy of {other.name}: tied in the reference"
            return Verdict("", where, "right", "tied", words=words, port_module=parameter.owner)
        if unit is None and not self._has_own(number):
            words = f"a copy of {other.name}"
            return Verdict("", where, "note", "tied", words=words, port_module=parameter.owner)
        words = f"{where} is a second copy of the reference's {other.name}"
        return Verdict(
            "",
            where,
            "wrong",
            "duplicated",
            words=words,
            remedy="load its own values",
            port_module=parameter.owner,
        )

    def _has_own(self, number: int) -> bool:
        """Whether its like in other layers, or its namesake, says that it ought to hold values of its own."""
        expectation = self.found.expectation
        template = expectation.theirs[number].template
        return expectation.namesake(Unit(number)) is not None or any(
            key[0] == template for key in expectation.claims
        )

    def _unused(self, number: int, parameter: Parameter) -> Verdict:
        known, where = self.found.port.prints[number], parameter.name

        def found(
            finding: Finding, words: str, remedy: str = "", status: Status = "wrong"
        ) -> Verdict:
            owner = parameter.owner
            return Verdict(
                "", where, status, finding, words=words, remedy=remedy, port_module=owner
            )

        if is_computed(parameter) or is_integer(parameter.dtype) or parameter.kind != "parameter":
            return found("computed", "not a parameter of the reference", status="note")
        if is_neutral(known, leaf_word(parameter.leaf)):
            words = f"{where} is unused by the weights: all {known.max:g}; the reference has no such parameter"
            return found("unused", words, status="note")
        if self.untold.idle(number):
            return found("unused", f"{where} equals nothing of the reference{WORDS}", status="note")
        state = describe(self.found.port, number)
        looks = f" ({state})" if state else ""
        table = self._table_of(parameter)
        if table and (_is_head(parameter) or len(parameter.shape) == 2):
            words = (
                f"{where} is not tied: the reference has no head of its own, it uses {table}; "
                f"this one was never loaded{looks}"
            )
            return found("untied", words, f"tie it, or load {table} into it")
        if self._has_own(number):
            return found(
                "differs", f"{where} holds nothing of the reference{looks}", "load it again"
            )
        words = f"{where} is unused, or was never loaded: nothing in the reference has its values{looks}"
        return found("unused", words, "remove it, or load it")

    def _table_of(self, parameter: Parameter) -> str:
        """The reference's first embedding of the size of ``parameter``; empty where there is none."""
        parameters = self.found.reference.parameters
        same = (p.name for p in parameters if is_embedding(p) and p.size == parameter.size)
        return next(same, "")

    def _verdict(
        self, parameter: Parameter, where: str, finding: Finding, words: str, remedy: str = ""
    ) -> Verdict:
        harmless = finding in ("computed", "neutral")
        return Verdict(
            parameter.name,
            where,
            "note" if harmless else "wrong",
            finding,
            words=words,
            remedy=remedy,
            module=parameter.owner,
        )


def _is_head(parameter: Parameter) -> bool:
    words = set(parameter.name.casefold().replace("_", ".").split("."))
    return (
        bool(words & {"head", "unembed", "output", "logits", "decoder"})
        and leaf_word(parameter.leaf) == "weight"
    )
