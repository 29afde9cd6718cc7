"""Which methods of a module class are recorded, and patching them. Apart, because frameworks
without interceptors share it."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeAlias

Around: TypeAlias = Callable[[str, Any, Any, tuple[Any, ...], dict[str, Any]], Any]
"""``around(name, method, self, args, kwargs)`` runs in place of a method; ``method`` is the unbound
original."""

_PREPARING = ("setup", "init", "reset", "build", "set_", "load", "save", "from_")
_PATCHED = "_firstdiff_patched"
"""On what stands in for a method, so that it is not patched again inside."""
_NO_METHOD = (type, staticmethod, classmethod, property)


def recorded_methods(cls: type, bases: Iterable[type]) -> dict[str, tuple[type, Any]]:
    """Methods of ``cls`` that are recorded, as name -> (class that defines it, what it defines).

    These are `__call__` and the public methods that ``cls`` and its ancestors define, except those
    of ``bases`` (the framework's own module classes, with all that these inherit) and those that
    prepare a module rather than run it (`setup`, `init...`, `set_...`). A method that is wrapped,
    for instance by `jax.jit`, counts.
    """
    bases = tuple(bases)
    excluded = {ancestor for base in bases for ancestor in base.__mro__}
    reserved = {name for base in bases for name in dir(base)} - {"__call__"}
    found: dict[str, tuple[type, Any]] = {}
    for klass in cls.__mro__:
        for name, value in vars(klass).items():
            if klass not in excluded and name not in reserved and _is_recorded(name, value):
                found.setdefault(name, (klass, value))
    return found


def _is_recorded(name: str, value: object) -> bool:
    if name != "__call__" and (name.startswith("_") or name.startswith(_PREPARING)):
        return False
    if isinstance(value, _NO_METHOD) or getattr(value, "__isabstractmethod__", False):
        return False
    return callable(value) and hasattr(value, "__get__")


@contextlib.contextmanager
def patched(methods: Iterable[tuple[type, str]], around: Around) -> Iterator[None]:
    """Let methods, as (class that defines it, name), run through ``around``.

    Every class is as before when this is left, however that happens. A definition that a subclass
    overrides is called plainly: `super().__call__()` is a part of the call, not another one.
    """
    undo: dict[tuple[type, str], Any] = {}
    try:
        for owner, name in methods:
            if (owner, name) not in undo and not hasattr(vars(owner)[name], _PATCHED):
                undo[owner, name] = method = vars(owner)[name]
                type.__setattr__(owner, name, _around(owner, name, method, around))
        yield
    finally:
        for (owner, name), method in undo.items():
            type.__setattr__(owner, name, method)


def _around(owner: type, name: str, method: Any, around: Around) -> Any:
    @functools.wraps(method)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        if definer(type(self), name) is not owner:
            return method.__get__(self, type(self))(*args, **kwargs)
        return around(name, method, self, args, kwargs)

    setattr(call, _PATCHED, True)
    return call


def definer(cls: type, name: str) -> type | None:
    """The class whose ``name`` an instance of ``cls`` gets."""
    return next((klass for klass in cls.__mro__ if name in vars(klass)), None)
