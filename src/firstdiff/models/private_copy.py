"""A module executed a second time, so that functions can be replaced in it and nobody else sees them."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import ModuleType


def private_copy(module: ModuleType) -> ModuleType:
    """A second, unregistered execution of ``module``: same file, same name, own globals."""
    spec = module.__spec__
    assert spec is not None
    assert spec.loader is not None
    copy = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(copy)
    return copy
