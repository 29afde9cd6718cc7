"""Modules as a trace shows them: the activations of one path and method. Matchers pair modules."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from firstdiff.traces.schema import Activation

Evidence = Literal[
    "map", "weights", "name", "alias", "graph", "only candidate", "values", "neighbours"
]
"""What a pair rests on, strongest first."""

CONFIDENCE: dict[Evidence, float] = {
    "map": 1.0, "weights": 1.0, "name": 0.95, "values": 0.9, "alias": 0.75, "graph": 0.9, "only candidate": 0.6,
    "neighbours": 0.8,
}  # fmt: skip
"""How sure a pair is by its kind of evidence alone."""

_CALL_METHODS = frozenset({"forward", "__call__", "call", ""})


@dataclass(frozen=True)
class Module:
    """The activations of one method of one module."""

    path: str
    """Dotted module path as the framework spells it; the root is ``""``."""
    method: str
    """Method called; `call` stands for `forward` and `__call__` alike."""
    class_name: str
    """Class of the module."""
    activations: tuple[Activation, ...]
    """What was recorded of it, in execution order."""

    @property
    def parent(self) -> str:
        """Path of the enclosing module; ``""`` for a child of the root."""
        return self.path.rpartition(".")[0]

    def outputs(self) -> tuple[Activation, ...]:
        """The recorded results of its first call."""
        return tuple(a for a in self.activations if a.key.site == "output" and a.key.call == 0)


@dataclass(frozen=True)
class ModulePair:
    """One module of the reference and the same one of the port."""

    reference: Module
    """The reference's."""
    port: Module
    """The port's."""
    evidence: Evidence
    """What the pair rests on."""
    confidence: float | None = None
    """How sure that is, 0 to 1; None for what its kind of evidence is worth (`CONFIDENCE`)."""
    conflict: str = ""
    """What contradicts it: names that say something else."""

    @property
    def certainty(self) -> float:
        """How sure the pair is, 0 to 1."""
        return CONFIDENCE[self.evidence] if self.confidence is None else self.confidence


Matcher = Callable[[Sequence[Module], Sequence[Module], Sequence[ModulePair]], list[ModulePair]]
"""Pairs some of the modules that no earlier matcher paired: (reference's, port's, pairs so far) -> new pairs."""


def method_of(name: str) -> str:
    """`call` for the ways a model is called, else the method's name."""
    return "call" if name in _CALL_METHODS else name


def modules_of(activations: Iterable[Activation]) -> tuple[Module, ...]:
    """Every (path, method) that ``activations`` show, in the order of their first activation."""
    groups: dict[tuple[str, str], list[Activation]] = {}
    for activation in activations:
        key = (activation.key.path, method_of(activation.key.method))
        groups.setdefault(key, []).append(activation)
    return tuple(
        Module(path, method, found[0].class_name, tuple(found))
        for (path, method), found in groups.items()
    )


def run_matchers(
    matchers: Iterable[Matcher], reference: Sequence[Module], port: Sequence[Module]
) -> list[ModulePair]:
    """Each matcher in turn over the modules that those before it left, until all have run."""
    pairs: list[ModulePair] = []
    for matcher in matchers:
        taken = {(id(pair.reference), id(pair.port)) for pair in pairs}
        ours, theirs = {a for a, _ in taken}, {b for _, b in taken}
        left = [module for module in reference if id(module) not in ours]
        right = [module for module in port if id(module) not in theirs]
        if left and right:
            pairs += matcher(left, right, pairs)
    return pairs


def serving_one(matcher: Matcher) -> Matcher:
    """``matcher`` without pairs whose port is called more often: a function that serves several modules is no one of
    them."""

    def match(
        reference: Sequence[Module], port: Sequence[Module], pairs: Sequence[ModulePair]
    ) -> list[ModulePair]:
        found = matcher(reference, port, pairs)
        return [pair for pair in found if _calls(pair.port) <= _calls(pair.reference)]

    return match


def _calls(module: Module) -> int:
    return len({(a.key.step, a.key.call) for a in module.activations})
