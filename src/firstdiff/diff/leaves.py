"""The tensors of one paired module, paired: by call, by leaf name, or because there is only one way to do it."""

from __future__ import annotations

from collections import defaultdict
from math import prod
from typing import TYPE_CHECKING, Literal

from firstdiff.traces.schema import Activation, Site

if TYPE_CHECKING:
    from collections.abc import Iterator

    from firstdiff.diff.modules import Module

LeafEvidence = Literal["name", "single", "position"]
"""Equal leaf names; the only tensor at that site on both sides; the next one of equal size and kind."""

Slot = tuple[int, Site, int]
MOST_CHOICES = 16
"""Length of a last axis up to which integers may be choices."""
LeafPair = tuple[Activation, Activation, LeafEvidence]


def pair_leaves(reference: Module, port: Module) -> list[LeafPair]:
    """Pair the activations of two modules that are the same, call by call and site by site.

    Each pair is (reference's, port's, evidence); what has no partner is in none.
    """
    ours, theirs = _slots(reference), _slots(port)
    return [
        pair
        for slot, left in ours.items()
        for pair in _pair_slot(list(left), list(theirs.get(slot, ())))
    ]


def _slots(module: Module) -> dict[Slot, list[Activation]]:
    found: dict[Slot, list[Activation]] = defaultdict(list)
    for activation in module.activations:
        key = activation.key
        found[key.step, key.site, key.call].append(activation)
    return found


def _pair_slot(left: list[Activation], right: list[Activation]) -> Iterator[LeafPair]:
    """Pairs of one call and site; what is paired is taken out of ``left`` and ``right``."""
    single = len(left) == len(right) == 1
    by_leaf = {a.key.leaf: a for a in right}
    for one in list(left):
        other = by_leaf.get(one.key.leaf)
        if other is not None and (single or kind_of(one) == kind_of(other)):
            left.remove(one)
            right.remove(other)
            yield one, other, "name"
    if len(left) == len(right) == 1 and (
        (single and _may_be(left[0], right[0])) or _alike(left[0], right[0])
    ):
        yield left.pop(), right.pop(), "single" if single else "position"
    for one in list(left):
        match = next((other for other in right if _alike(one, other)), None)
        if match is not None:
            left.remove(one)
            right.remove(match)
            yield one, match, "position"
    for repeated in (_repeated_masks, _choices):
        pair = repeated(left, right)
        if pair is not None:
            left.remove(pair[0])
            right.remove(pair[1])
            yield *pair, "position"


def _repeated_masks(
    left: list[Activation], right: list[Activation]
) -> tuple[Activation, Activation] | None:
    """The only mask of each side, where one side has once what the other repeats: (b, 1, 1, t), (b, 1, t, t)."""
    ours, theirs = ([a for a in side if kind_of(a) == "mask"] for side in (left, right))
    if len(ours) != 1 or len(theirs) != 1:
        return None
    sizes = list(zip(ours[0].shape, theirs[0].shape, strict=False))
    same = len(ours[0].shape) == len(theirs[0].shape) > 2
    fits = all(n == m or 1 in (n, m) for n, m in sizes)
    return (ours[0], theirs[0]) if same and fits else None


def _choices(
    left: list[Activation], right: list[Activation]
) -> tuple[Activation, Activation] | None:
    """The only integers of each side that differ in the length of their last axis alone: choices of other numbers."""
    ours, theirs = ([a for a in side if kind_of(a) == "integer"] for side in (left, right))
    if len(ours) != 1 or len(theirs) != 1:
        return None
    shapes = ours[0].shape, theirs[0].shape
    few = all(len(shape) > 1 and 0 < shape[-1] <= MOST_CHOICES for shape in shapes)
    same = few and shapes[0][:-1] == shapes[1][:-1] and ours[0].key.site == "input"
    return (ours[0], theirs[0]) if same else None


def _may_be(one: Activation, other: Activation) -> bool:
    """Whether two lone tensors are the same: not `last_hidden_state` and `logits` of other sizes."""
    return not (one.key.leaf and other.key.leaf and one.key.site == "output") or _alike(one, other)


def _alike(one: Activation, other: Activation) -> bool:
    return kind_of(one) == kind_of(other) and prod(one.shape) == prod(other.shape)


def kind_of(activation: Activation) -> Literal["float", "integer", "mask"]:
    """What sort of thing an activation is: truth values and additive masks are one sort."""
    if activation.dtype == "bool" or "mask" in activation.key.leaf:
        return "mask"
    return "integer" if activation.dtype.startswith(("int", "uint")) else "float"
