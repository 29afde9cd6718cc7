"""One framework's modules inside another's: what their paths begin with.

linen and Haiku name a module from their own root. Where that root is called by a module of another framework, the
name goes on from there: a linen `Dense_0` inside an NNX module `encoder` is `encoder.Dense_0`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass

from firstdiff.tracer.jax.tap import dotted


@dataclass(frozen=True)
class _Enclosing:
    front_end: str
    path: str
    base: str
    bridge: bool


_enclosing: ContextVar[_Enclosing | None] = ContextVar("firstdiff_enclosing", default=None)


def base_path(front_end: str, path: str, class_name: str) -> str:
    """What a module of ``front_end`` that calls itself ``path`` is prefixed with; "" where no other framework
    calls it.

    A root, which has no name of its own, goes by its class, because its caller stands under the same path;
    not so behind a bridge, which is nothing but that root.
    """
    around = _enclosing.get()
    if around is None:
        return ""
    if around.front_end == front_end:
        return around.base
    return around.path if path or around.bridge else dotted(around.path, class_name)


@contextlib.contextmanager
def entered(front_end: str, path: str, base: str = "", *, bridge: bool = False) -> Iterator[None]:
    """Inside, a module of ``front_end`` at ``path`` (``base`` included) is running; a ``bridge`` is one that only
    wraps a module of another framework."""
    reset = _enclosing.set(_Enclosing(front_end, path, base, bridge))
    try:
        yield
    finally:
        _enclosing.reset(reset)
