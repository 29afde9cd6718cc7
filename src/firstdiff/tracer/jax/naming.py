"""Where the iteration of a scan goes in a module path: `layers.mlp` inside a scan is
`layers.0.mlp`, `layers.1.mlp`, ...

A body that runs once per layer fires under one path. PyTorch spells the same layers with their
number, so the number is put back, after the module that is scanned.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

PLACEHOLDER = "{}"
"""In a tap's name: the iteration goes here."""


def scan_places(paths: Iterable[str]) -> dict[str, int | None]:
    """For each path that fires in one scan body, in order: how many of its segments come before the
    iteration.

    None for a module that is shared by all layers and lies outside the scanned one: its iterations
    are calls. The scanned module usually fires first and is a prefix of the rest; otherwise it is
    their longest common prefix.
    """
    split = {path: _segments(path) for path in dict.fromkeys(paths) if PLACEHOLDER not in path}
    scanned = _segments(scanned_module(split))
    return {
        path: len(scanned) if segments[: len(scanned)] == scanned else None
        for path, segments in split.items()
    }


def scanned_module(paths: Iterable[str]) -> str:
    """The module that is scanned, when ``paths`` fire in the body of the scan; "" when they share none."""
    every = [_segments(path) for path in dict.fromkeys(paths) if PLACEHOLDER not in path]
    return ".".join(_scanned(every)) if every else ""


def numbered(path: str, iterations: Sequence[tuple[int, int]]) -> str:
    """``path`` with iterations, as (segments before it, iteration) outermost first, put in."""
    segments = list(_segments(path))
    for done, (place, iteration) in enumerate(sorted(iterations, key=lambda entry: entry[0])):
        segments.insert(place + done, str(iteration))
    return ".".join(segments)


def filled(path: str, iterations: Sequence[int]) -> str:
    """``path`` with its placeholders replaced by the innermost of ``iterations``."""
    count = path.count(PLACEHOLDER)
    inner = [*iterations[-count:]]
    for iteration in inner:
        path = path.replace(PLACEHOLDER, str(iteration), 1)
    return path


def _segments(path: str) -> tuple[str, ...]:
    return tuple(path.split(".")) if path else ()


def _scanned(every: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    first = every[0]
    under = sum(segments[: len(first)] == first for segments in every)
    if first and under > len(every) / 2:
        return first
    common = _common(every)
    if common:
        return common
    (start, count), *_rest = Counter(segments[:1] for segments in every).most_common(1)
    if count > 1 and count > len(every) / 2:
        return _common([segments for segments in every if segments[:1] == start])
    return ()


def _common(every: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    shortest = min(every, key=len)
    for length in range(len(shortest), 0, -1):
        if all(segments[:length] == shortest[:length] for segments in every):
            return shortest[:length]
    return ()
