"""The modules of a torch model by path: shared ones, and those that no hook can see into.

Apart from `hooks.py`, which attaches to them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class ModuleTree:
    """The modules of one model by path."""

    paths: dict[nn.Module, str]
    """Each module once, by the first of its names, in the model's own order; the root is ``""``."""
    aliases: dict[str, tuple[str, ...]]
    """Other names of a shared module, by its first."""
    compiled: tuple[str, ...]
    """Modules whose inside runs as one compiled function, where no hook fires."""

    @classmethod
    def of(cls, model: nn.Module) -> ModuleTree:
        """Walk ``model`` once."""
        paths: dict[nn.Module, str] = {}
        aliases: dict[str, tuple[str, ...]] = {}
        compiled = []
        for path, module in model.named_modules(remove_duplicate=False):
            if module in paths:
                first = paths[module]
                aliases[first] = (*aliases.get(first, ()), path)
                continue
            paths[module] = path
            if type(module).__name__ == "OptimizedModule":
                compiled.append(f"{path}._orig_mod".lstrip("."))
            elif _is_opaque(module) and not any(_within(path, outer) for outer in compiled):
                compiled.append(path)
        return cls(paths, aliases, tuple(compiled))

    def is_compiled(self, path: str) -> bool:
        """Whether ``path`` is a compiled module or lies inside one."""
        return any(_within(path, outer) for outer in self.compiled)


def _within(path: str, outer: str) -> bool:
    """Whether ``path`` is ``outer`` or lies inside it."""
    return not outer or path == outer or path.startswith(f"{outer}.")


def _is_opaque(module: nn.Module) -> bool:
    """Whether calls of ``module`` run as one compiled or scripted function."""
    scripted = isinstance(module, torch.jit.ScriptModule)
    return scripted or getattr(module, "_compiled_call_impl", None) is not None
