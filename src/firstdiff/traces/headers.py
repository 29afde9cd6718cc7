"""The header as JSON, both ways."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from typing import Any

from firstdiff.traces.errors import TraceError
from firstdiff.traces.schema import Header

LIMIT = 1 << 26
"""A header has at most this many bytes."""

_TYPES: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("modules", "never_fired", "notes"), list),
    **dict.fromkeys(("model", "versions", "precision", "selection"), dict),
    **dict.fromkeys(("output_check", "aliases", "extra"), dict),
}


def encode_header(header: Header) -> bytes:
    """UTF-8 JSON of ``header``. What JSON lacks, in the model's config say, becomes its text."""
    text = json.dumps(asdict(header), ensure_ascii=False, default=str)
    # A lone surrogate, from a file name say, becomes `\\udc80`, which JSON reads back as it was.
    return text.encode(errors="backslashreplace")


def decode_header(data: bytes) -> Header:
    """The header of UTF-8 JSON. Unknown fields are kept in ``extra``. Raises `TraceError` when it is none."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise TraceError(f"The header is damaged: it is not JSON ({error}).") from error
    if not isinstance(found, dict):
        raise TraceError("The header is damaged: it is not a JSON object.")
    known = {field.name for field in fields(Header)}
    values = {name: value for name, value in found.items() if name in known}
    for name, value in values.items():
        if not isinstance(value, _TYPES.get(name, str)):
            raise TraceError(
                f"The header is damaged: its field {name!r} is a {type(value).__name__}."
            )
    unknown = {name: value for name, value in found.items() if name not in known}
    return _typed(values, unknown)


def _typed(values: dict[str, Any], unknown: dict[str, Any]) -> Header:
    """A header with tuples where JSON has lists."""
    try:
        if "modules" in values:
            values["modules"] = tuple((str(path), str(kind)) for path, kind in values["modules"])
        if "aliases" in values:
            values["aliases"] = {path: tuple(map(str, v)) for path, v in values["aliases"].items()}
        for name in {"never_fired", "notes"} & values.keys():
            values[name] = tuple(map(str, values[name]))
        if unknown:
            values["extra"] = {**unknown, **values.get("extra", {})}
        return Header(**values)
    except (TypeError, ValueError) as error:
        raise TraceError(f"The header is damaged ({error}).") from error
