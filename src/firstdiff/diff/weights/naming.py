"""Names of parameters as the audit compares them: templates without indices, and one word for the weight of a layer."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from firstdiff.diff.names import REPEATED, Segments

if TYPE_CHECKING:
    from collections.abc import Sequence

    from firstdiff.traces.parameters import Parameter

WEIGHT = frozenset(
    {"weight", "kernel", "w", "scale", "gamma", "embedding", "embeddings", "input_embedding"}
)
BIAS = frozenset({"bias", "b", "beta", "offset"})
_EMBEDDING_WORDS = ("embed", "wte", "wpe", "token", "position")
_DEEPEST_WRAPPER = 3
_LEAST_AGREEMENT = 0.5
_STACK = "layers"
_SEPARATORS = re.compile(r"[/.\[\]:~'\"]+")
_COUNTED = re.compile(
    r"((?:\w*_)?(?:layers?|blocks?|h|blk|experts?|resblocks?|stages?|groups?))_?(\d+)", re.I
)


@dataclass(frozen=True)
class Name:
    """A parameter's name, taken apart."""

    template: Segments
    """Segments without indices: `("layers", "self_attn", "q_proj", "weight")`."""
    index: tuple[int, ...]
    """The indices, outermost first."""

    @property
    def depth(self) -> int:
        """Number of segments without indices."""
        return len(self.template)


def parse(name: str) -> Name:
    """``name`` taken apart; the leaf becomes `weight` or `bias` where it is one of their many spellings."""
    words, index = [], []
    for part in _SEPARATORS.split(name.casefold()):
        word, number = _split_index(part)
        words += [_STACK if number is not None and word in REPEATED else word] if word else []
        index += [number] if number is not None else []
    if words and not part.isdigit():
        words[-1] = leaf_word(words[-1])
    return Name(tuple(words), tuple(index))


def _split_index(part: str) -> tuple[str, int | None]:
    """`layers_3` and `experts3` count something; `ln_1` and `fc2` are names."""
    if part.isdigit():
        return "", int(part)
    found = _COUNTED.fullmatch(part)
    return (found[1], int(found[2])) if found else (part, None)


def leaf_word(leaf: str) -> str:
    """`weight` or `bias` for their spellings, else ``leaf``."""
    leaf = leaf.casefold()
    return "weight" if leaf in WEIGHT else "bias" if leaf in BIAS else leaf


def family(name: str) -> str:
    """``name`` with a star for each index: `model.layers.*.mlp.gate_proj.weight`."""
    return ".".join(_star(part) for part in name.split("."))


def _star(part: str) -> str:
    if part.isdigit():
        return "*"
    return (
        _COUNTED.sub(lambda found: f"{found[0].rstrip('0123456789')}*", part)
        if _COUNTED.fullmatch(part)
        else part
    )


def is_embedding(parameter: Parameter) -> bool:
    """Whether it is a table that is looked up, by class, leaf or name."""
    if parameter.class_name in ("Embedding", "Embed", "TokenEmbedding"):
        return True
    if parameter.class_name in ("Linear", "Conv1D", "Dense"):
        return False
    if leaf_word(parameter.leaf) != "weight":
        return "embed" in parameter.leaf.casefold()
    last = parameter.owner.rpartition(".")[2].casefold()
    return parameter.leaf.casefold() in ("embedding", "embeddings", "input_embedding") or (
        len(parameter.shape) == 2 and any(word in last for word in _EMBEDDING_WORDS)
    )


def same_names(reference: Sequence[Name], port: Sequence[Name]) -> dict[Segments, Segments]:
    """Port template by reference template, where both sides use the same words up to outer wrappers.

    Empty unless at least half of the templates of the smaller side agree: between two schemes of naming a few equal
    words are a coincidence.
    """
    left, right = {n.template for n in reference}, {n.template for n in port}
    smaller = min(len(left), len(right))
    pairs: dict[Segments, Segments] = {}
    while left and right:
        found = _best_wrappers(left, right)
        if not found:
            break
        pairs |= found
        left, right = left - found.keys(), right - set(found.values())
    return pairs if len(pairs) >= _LEAST_AGREEMENT * smaller else {}


def _best_wrappers(left: set[Segments], right: set[Segments]) -> dict[Segments, Segments]:
    """The most pairs that are equal when one outer part of each side is dropped; {} when none are."""
    rests: dict[Segments, dict[Segments, Segments]] = {}
    for template in right:
        for depth in range(min(_DEEPEST_WRAPPER, len(template) - 1) + 1):
            rests.setdefault(template[:depth], {})[template[depth:]] = template
    votes: Counter[tuple[Segments, Segments]] = Counter()
    for template in left:
        for depth in range(min(_DEEPEST_WRAPPER, len(template) - 1) + 1):
            for wrapper, ends in rests.items():
                if template[depth:] in ends and (not wrapper or not depth):
                    votes[template[:depth], wrapper] += 1
    if not votes:
        return {}
    ours, theirs = min(votes, key=lambda pair: (-votes[pair], len(pair[0]) + len(pair[1]), pair))
    return {
        template: rests[theirs][template[len(ours) :]]
        for template in left
        if template[: len(ours)] == ours and template[len(ours) :] in rests[theirs]
    }
