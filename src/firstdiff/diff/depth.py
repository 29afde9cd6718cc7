"""A model as a line of blocks, cut between them: where a search over depth may look, and put values in.

Apart from the search: what counts as depth is read off the module paths of the reference alone.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from firstdiff.diff.leaves import kind_of
from firstdiff.traces.dtypes import unit_roundoff
from firstdiff.traces.errors import OptionError

if TYPE_CHECKING:
    from firstdiff.diff.align import Pair
    from firstdiff.traces.schema import Activation

_INDEXED = re.compile(r"^(.*?)[._]?(\d+)$")


@dataclass(frozen=True)
class Cut:
    """A place between two blocks: what the block after it receives."""

    block: str
    """Reference path of the block after the cut (`model.layers.3`); ``""`` for the end of the model."""
    pairs: tuple[Pair, ...]
    """What crosses the cut from the blocks before it: the block's own inputs, or the earlier block's results."""
    sides: tuple[Pair, ...] = ()
    """What the block receives as every other layer does: masks, rotary tables. Not part of the line."""

    @property
    def order(self) -> int:
        """Where the cut lies in the reference's execution order."""
        return min(pair.reference.order for pair in self.pairs)


def cuts(reference: Sequence[Activation], pairs: Sequence[Pair]) -> tuple[Cut, ...]:
    """The cuts of a model in execution order, the last one being its result.

    Blocks are the root's children, where a child that contains a stack of layers (`model`, `encoder`) stands for
    its own children. Only the first call of the first step counts. A block none of whose values are paired is
    no place to cut; with fewer than two cuts there is nothing to search.
    """
    first = [p for p in pairs if not p.reference.key.call and not p.reference.key.step]
    found: list[Cut] = []
    stacked = _shared(reference)
    for block in blocks(reference):
        inputs = [
            p for p in first if p.reference.key.path == block and p.reference.key.site == "input"
        ]
        sides = tuple(p for p in inputs if _checksum(p.reference) in stacked.get(_stack(block), ()))
        line = tuple(p for p in inputs if p not in sides)
        if line:
            found.append(Cut(block, line, sides))
    end = _end(first, found)
    return (*sorted(found, key=lambda cut: cut.order), end) if end is not None else ()


def blocks(activations: Sequence[Activation]) -> tuple[str, ...]:
    """Paths of the blocks, in the order in which they are first called."""
    paths = list(dict.fromkeys(a.key.path for a in activations if a.key.path))
    found: list[str] = []
    region = _children(paths, "")
    while region:
        path = region.pop(0)
        below = _children(paths, path)
        open_up = not _is_indexed(path) and (_has_stack(paths, path) or (not found and not region))
        if open_up and below:
            region = below + region
        else:
            found.append(path)
    return tuple(found)


def _children(paths: Iterable[str], parent: str) -> list[str]:
    """Children of ``parent`` by their paths; a number belongs to the name before it: `layers.3`."""
    prefix = f"{parent}." if parent else ""
    found: dict[str, None] = {}
    for path in paths:
        if path.startswith(prefix) and path != parent:
            head, *rest = path[len(prefix) :].split(".")
            indexed = bool(rest) and rest[0].isdigit()
            found[f"{prefix}{head}.{rest[0]}" if indexed else f"{prefix}{head}"] = None
    return list(found)


def _is_indexed(path: str) -> bool:
    return bool(_stack(path))


def _stack(path: str) -> str:
    """`model.layers` of `model.layers.3`, `layers` of `layers_3`; ``""`` for a block of its own."""
    found = _INDEXED.match(path)
    return found[1] if found else ""


def _has_stack(paths: Sequence[str], path: str) -> bool:
    """Whether at least two layers of one stack lie below ``path``, with no other stack around them."""
    below = _children(paths, path)
    counts = Counter(_stack(child) for child in below if _is_indexed(child))
    if any(count > 1 for count in counts.values()):
        return True
    return any(_has_stack(paths, child) for child in below if not _is_indexed(child))


def _shared(activations: Sequence[Activation]) -> dict[str, set[int]]:
    """Checksums of the inputs that at least two layers of a stack receive alike, by stack."""
    seen: dict[str, Counter[int]] = {}
    for activation in activations:
        stack, checksum = _stack(activation.key.path), _checksum(activation)
        if stack and activation.key.site == "input" and checksum is not None:
            seen.setdefault(stack, Counter())[checksum] += 1
    return {stack: {c for c, n in counts.items() if n > 1} for stack, counts in seen.items()}


def _checksum(activation: Activation) -> int | None:
    return None if activation.digest is None else activation.digest.checksum


def _end(pairs: Sequence[Pair], found: Sequence[Cut]) -> Cut | None:
    """The model's result: what the root returns, else what the last block does."""
    last = max(found, key=lambda cut: cut.order).block if found else ""
    for path in dict.fromkeys(("", last)):
        results = tuple(
            p for p in pairs
            if p.reference.key.path == path and p.reference.key.site == "output" and _is_float(p)
        )  # fmt: skip
        if results and found:
            return Cut("", results)
    return None


def _is_float(pair: Pair) -> bool:
    return unit_roundoff(pair.reference.dtype) > 0 and kind_of(pair.reference) == "float"


def region(pairs: Sequence[Pair], start: Cut, end: Cut) -> tuple[Pair, ...]:
    """The pairs between two cuts, both included, in the reference's order."""
    limit = max(pair.reference.order for pair in end.pairs)
    chosen = set(map(id, end.pairs)) | set(map(id, start.pairs)) | set(map(id, start.sides))
    return tuple(
        p for p in pairs
        if id(p) in chosen or (start.order <= p.reference.order < min(limit, end.order))
    )  # fmt: skip


def required(found: tuple[Cut, ...], reference: object, port: object) -> tuple[Cut, ...]:
    """``found``, when there is anything to search.

    Raises:
        OptionError: no result is paired, or fewer than two places to cut.
    """
    if len(found) < 2:
        raise OptionError(
            f"{reference} and {port}: no line of blocks to search, since fewer than two modules of the outermost "
            f"level are paired; compare all of it: firstdiff diff, or firstdiff check"
        )
    return found
