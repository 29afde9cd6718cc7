"""Calls in a Python loop, numbered like the iterations of a scan: `layer` called for each layer is `layer.0`,
`layer.1`, ...

Ports are written either way, and their activations should have the same names. A call stands in a loop when its
place in the caller's code does; how often it was made is known when the program is read, because JAX takes the second
call of a jitted function from its cache.
"""

from __future__ import annotations

import dis
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import CodeType

    from firstdiff.tracer.jax.plan import Address


@dataclass(frozen=True)
class Repeat:
    """A call that stands in a loop of its caller."""

    place: int
    """Segments of the path up to the function's name: the number comes after them."""
    site: int
    """Where in the caller's code it stands."""
    serial: int
    """Number of the traced call."""


@lru_cache(maxsize=1 << 12)
def _loops(code: CodeType) -> tuple[tuple[int, int], ...]:
    """(first, last) offset of the instructions of every loop in ``code``: what lies under a jump backwards."""
    jumps = {*dis.hasjrel, *dis.hasjabs}
    return tuple(
        (found.argval, found.offset)
        for found in dis.get_instructions(code)
        if found.opcode in jumps and found.argval < found.offset
    )


def stands_in_loop(code: CodeType, offset: int) -> bool:
    """Whether the instruction at ``offset`` of ``code`` can run more than once in one call."""
    return any(first <= offset <= last for first, last in _loops(code))


class Repeats:
    """Gives the calls of a program their numbers, in execution order."""

    def __init__(self) -> None:
        self._calls: dict[int, list[Address]] = {}
        self._numbers: dict[object, dict[tuple[int, int], int]] = {}

    def places(
        self, repeats: tuple[Repeat, ...], path: str, scope: Address, trips: tuple[int, ...]
    ) -> list[tuple[int, int]]:
        """(segments before it, number) of every enclosing call of ``repeats``, outermost first.

        ``scope`` is the sub-program of the tap, ``trips`` the iterations of the loops around it.
        """
        segments = path.split(".")
        found: list[tuple[int, int]] = []
        for repeat in repeats:
            call = repeat.serial, self._instance(repeat.serial, scope)
            context = tuple(segments[: repeat.place]), repeat.site, tuple(found), trips
            numbers = self._numbers.setdefault(context, {})
            found.append((repeat.place, numbers.setdefault(call, len(numbers))))
        return found

    def _instance(self, serial: int, scope: Address) -> int:
        """Which of the places of a cached trace this is: their sub-programs do not contain each other."""
        places = self._calls.setdefault(serial, [])
        for number, place in enumerate(places):
            shorter = min(len(place), len(scope))
            if place[:shorter] == scope[:shorter]:
                places[number] = place[:shorter]
                return number
        places.append(scope)
        return len(places) - 1
