"""The calls of a fused module and of its members, side by side."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from firstdiff.diff.fusion import only

if TYPE_CHECKING:
    from firstdiff.diff.fusion import Fusion
    from firstdiff.diff.modules import Module
    from firstdiff.traces.schema import Activation


@dataclass(frozen=True)
class Slot:
    """One call: a tensor of the whole, and the members' that lie in it."""

    whole: Activation
    """The whole's."""
    members: tuple[Activation, ...]
    """The members', in their order."""
    inputs: tuple[tuple[Activation, Activation], ...] = ()
    """(whole's input, a member's) where all are given the same."""
    given: Slot | None = None
    """The inputs, where each is given a part of the whole's."""


def slots(fusion: Fusion) -> Iterator[Slot]:
    """The calls in which the whole and every member returned one floating-point tensor."""
    modules = (fusion.whole, *fusion.members)
    returned = [results(module) for module in modules]
    taken = [results(module, "input") for module in modules]
    for call, whole in returned[0].items():
        members = [found[call] for found in returned[1:] if call in found]
        if len(members) < len(fusion.members):
            continue
        own = taken[0].get(call)
        theirs = tuple(found[call] for found in taken[1:] if call in found)
        same = tuple(
            (own, a) for a in theirs if own is not None and prod(a.shape) == prod(own.shape)
        )
        apart = own is not None and not same and len(theirs) == len(members)
        given = Slot(own, theirs) if apart and own is not None else None
        yield Slot(whole, tuple(members), same, given)


def results(module: Module, site: str = "output") -> dict[tuple[int, int], Activation]:
    """The one floating-point tensor of each call of ``module``, by (step, call)."""
    groups: dict[tuple[int, int], list[Activation]] = defaultdict(list)
    for activation in module.activations:
        if activation.key.site == site:
            groups[activation.key.step, activation.key.call].append(activation)
    found = {call: only(activations) for call, activations in groups.items()}
    return {call: activation for call, activation in found.items() if activation is not None}
