"""What can be traced: subjects, the readable ports of this package, and the faults that are seeded into them.

Loaded when first asked for, so that `import firstdiff.models` imports no framework.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from firstdiff.models import qwen2
    from firstdiff.models.checkpoint import discriminating_inputs, write_checkpoint
    from firstdiff.models.faults import FAULTS, Fault
    from firstdiff.models.loading import load_subject
    from firstdiff.models.subject import Subject

__all__ = [
    "FAULTS",
    "Fault",
    "Subject",
    "discriminating_inputs",
    "load_subject",
    "qwen2",
    "write_checkpoint",
]

_HOMES = {
    "FAULTS": "faults",
    "Fault": "faults",
    "Subject": "subject",
    "discriminating_inputs": "checkpoint",
    "load_subject": "loading",
    "write_checkpoint": "checkpoint",
}


def __getattr__(name: str) -> Any:
    if name == "qwen2":
        return importlib.import_module("firstdiff.models.qwen2")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"firstdiff.models.{_HOMES[name]}"), name)
