"""Module paths in one spelling. Apart: every matcher compares names, and each framework spells its own way."""

from __future__ import annotations

import re
from collections import Counter
from difflib import SequenceMatcher
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

Segments = tuple[str, ...]

REPEATED = frozenset({"layers", "layer", "h", "block", "blocks", "blk", "resblocks"})
"""Names of a stack of equal modules; before an index they all read `layers`."""

_SEPARATORS = re.compile(r"[/.\[\]:~'\"]+")
_INDEX_FIRST = re.compile(rf"^({'|'.join(sorted(REPEATED))})_?(\d+)_(.+)$")
_INDEX_LAST = re.compile(r"^(.*?[^_\d])_?(\d+)$")


def split(path: str) -> Segments:
    """``path`` in segments: separators are one kind, indices are segments of their own, case is dropped.

    `layers_0/self_attn`, `layers[0].self_attn` and `model.layers.0.self_attn` differ only in the wrapper afterwards.
    """
    found: list[str] = []
    for part in _SEPARATORS.split(path.casefold()):
        found.extend(_split_index(part))
    return tuple(found)


def _split_index(part: str) -> list[str]:
    if not part:
        return []
    first = _INDEX_FIRST.match(part)
    if first:
        return [first[1], first[2], *_split_index(first[3])]
    last = _INDEX_LAST.match(part)
    return [last[1], last[2]] if last else [part]


def normalise(path: str) -> Segments:
    """`split`, with the name of every indexed stack (`h0`, `block_0`, `layer/0`) read as `layers`."""
    return unify_stacks(split(path))


def unify_stacks(segments: Segments) -> Segments:
    """``segments`` with `layers` for each name in `REPEATED` that stands before an index."""
    following = (*segments[1:], "")[: len(segments)]
    return tuple(
        "layers" if name in REPEATED and after.isdigit() else name
        for name, after in zip(segments, following, strict=True)
    )


def similarity(one: str, other: str) -> float:
    """How alike two module paths are, 0 to 1: shared segments from the end count most, letters break ties."""
    first, second = normalise(one), normalise(other)
    shared = 0
    for a, b in zip(reversed(first), reversed(second), strict=False):
        if a != b:
            break
        shared += 1
    segments = 2 * shared / max(len(first) + len(second), 1)
    return 0.5 * segments + 0.5 * SequenceMatcher(None, ".".join(first), ".".join(second)).ratio()


def wrapper_prefix(paths: Iterable[str]) -> str:
    """The outer segment, with its dot, that at least four in five of ``paths`` share (`model.`), or ``""``.

    People leave it out when they talk about a module. It is kept where dropping it would make two paths one.
    """
    named = [path for path in set(paths) if path]
    heads = Counter(path.split(".", 1)[0] for path in named)
    if not heads:
        return ""
    head, count = heads.most_common(1)[0]
    rest = [path.removeprefix(f"{head}.") for path in named if path != head]
    nested = count > 1 and not any(part.isdigit() for part in (r.split(".", 1)[0] for r in rest))
    return (
        f"{head}." if count >= 0.8 * len(named) and nested and len(set(rest)) == len(rest) else ""
    )
