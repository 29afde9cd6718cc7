"""The result as JSON: the dataclasses themselves, so that whoever reads one knows the other."""

from __future__ import annotations

import json
from dataclasses import fields, is_dataclass
from math import isfinite
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from firstdiff.diff.result import Diff

SKIPPED = frozenset({"sketch", "place", "part"})
"""Fields that only a program that reads the trace itself can use."""


def to_json(result: Diff) -> str:
    """``result`` as JSON with its `exit_code`; NaN and infinities become null."""
    found = plain(result)
    if result.zoom is not None:
        found["zoom"] = {"summary": result.zoom.summary, **found["zoom"]}
    return _text({"exit_code": result.exit_code, **found})


def dump(first: dict[str, Any], result: object) -> str:
    """``first`` and the fields of the dataclass ``result`` as one JSON object."""
    return _text({**first, **plain(result)})


def _text(found: dict[str, Any]) -> str:
    return json.dumps(found, indent=2, allow_nan=False, ensure_ascii=False)


def plain(value: Any) -> Any:
    """``value`` in the types of JSON: a dataclass becomes an object with its fields."""
    if is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in fields(value) if field.name not in SKIPPED]
        return {name: plain(getattr(value, name)) for name in names}
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return value if isfinite(value) else None
    return value if isinstance(value, bool | int | str) or value is None else str(value)
