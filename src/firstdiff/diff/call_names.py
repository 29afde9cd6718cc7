"""Whether names say that two calls are the same: weak evidence, which decides only where values leave a choice."""

from __future__ import annotations

import re
from math import log
from typing import TYPE_CHECKING

from firstdiff.diff.aliases import readings

if TYPE_CHECKING:
    from firstdiff.diff.calls import Call

_SHORTEST = 3
"""Letters that a name needs to say anything."""


def say_the_same(one: Call, other: Call) -> bool:
    """Whether the port's module, class or function is called as the reference's class, or as its module by a usual
    other name: `rms_norm` and `Qwen2RMSNorm`, `wq` and `q_proj`."""
    name, last = other.path.rpartition(".")[2], one.path.rpartition(".")[2]
    called = [_letters(name), _letters(other.class_name)]
    own = _letters(one.class_name)
    if any(len(word) >= _SHORTEST and word in own for word in called):
        return True
    return bool(_roles(last) & _roles(name))


def unlike_lengths(one: Call, other: Call) -> float:
    """How differently much runs inside two calls: 0 for equally much."""
    return abs(log((one.end - one.start + 1) / (other.end - other.start + 1)))


def _letters(name: str) -> str:
    return re.sub(r"[^a-z]", "", name.casefold())


def _roles(name: str) -> frozenset[tuple[str, ...]]:
    return frozenset(reading[-1:] for reading in readings(name)) if name else frozenset()
