"""Taps that a framework moved out of a loop, back to their loop.

Flax linen traces a scanned body twice: once to compute before the scan what is the same for every layer (a
broadcast mask, rotary angles), and once for the scan. To the reader of a trace, all of it belongs to every layer.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from firstdiff.tracer.jax.naming import scanned_module
from firstdiff.tracer.jax.plan import Scan, Tap, module_paths, taps

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from firstdiff.tracer.jax.plan import Node


def with_hoisted(nodes: Sequence[Node]) -> tuple[Node, ...]:
    """``nodes``, with module taps at or below a scanned module that come before its scan put into it."""
    found: list[Node] = []
    for node in nodes:
        if isinstance(node, Scan) and node.layered:
            module = scanned_module(module_paths(node.children))
            moved = [tap for tap in found if isinstance(tap, Tap) and _is_within(tap, module)]
            found = [other for other in found if other not in moved]
            node = replace(node, children=(*_joined(moved, node), *node.children))
        found.append(node)
    return tuple(found)


def _is_within(tap: Tap, module: str) -> bool:
    """Whether ``tap`` was placed by a front end on ``module`` or below. Explicit taps stay where they are written."""
    path = tap.key.path
    placed = bool(module) and tap.key.front_end != ""
    return placed and (path == module or path.startswith(f"{module}."))


def _joined(moved: Sequence[Tap], scan: Scan) -> list[Tap]:
    """``moved``, as taps of the calls in ``scan`` that they belong to: the n-th outside is the n-th inside.

    The framework traced the body once to find what can be moved, and again for the scan: what the
    scan taps as well is left out.
    """
    outside, inside = _calls(moved), _calls(taps(scan.children))
    same: dict[int, Tap] = {}
    for name, calls in outside.items():
        if len(calls) == len(inside.get(name, {})):
            same.update(zip(calls, inside[name].values(), strict=True))
    known = {_identity(tap) for tap in taps(scan.children)}
    joined = [
        replace(tap, scope=other.scope, key=replace(tap.key, serial=other.key.serial))
        if (other := same.get(tap.key.serial)) is not None
        else tap
        for tap in moved
    ]
    return [tap for tap in joined if _identity(tap) not in known]


def _identity(tap: Tap) -> tuple[object, ...]:
    return tap.key.path, tap.key.method, tap.key.serial, tap.key.site, tap.key.leaf


def _calls(found: Iterable[Tap]) -> dict[tuple[str, str], dict[int, Tap]]:
    """One tap of every traced call, in order, by path and method."""
    calls: dict[tuple[str, str], dict[int, Tap]] = {}
    for tap in found:
        calls.setdefault((tap.key.path, tap.key.method), {}).setdefault(tap.key.serial, tap)
    return calls
