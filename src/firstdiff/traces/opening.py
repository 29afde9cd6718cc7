"""Finding out what a path is, and saying so: the checks before a trace is read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from firstdiff.traces.complete import CompleteContents
from firstdiff.traces.errors import TraceError
from firstdiff.traces.mapping import Mapping
from firstdiff.traces.names import part_of
from firstdiff.traces.partial import PartialContents

if TYPE_CHECKING:
    from firstdiff.traces.contents import Contents

SIGNATURE = b"\x89HDF\r\n\x1a\n"
END_OF_FILE = 28
"""Where an HDF5 superblock of version 2 or 3 keeps the length that the file should have (8 bytes)."""


def open_contents(path: Path, *, partial: bool) -> tuple[Mapping, Contents]:
    """Map ``path`` and read what it holds. Raises `TraceError` with the remedy when it cannot be."""
    file = _map(path)
    try:
        return file, _contents(file, partial)
    except BaseException:
        file.close()
        raise


def open_journal(path: Path) -> tuple[Mapping, PartialContents]:
    """Map ``path`` and read its journal, whatever state the file is in. Raises `TraceError`."""
    file = _map(path)
    try:
        return file, PartialContents(file)
    except BaseException:
        file.close()
        raise


def stated_length(file: Mapping) -> int | None:
    """Bytes that the HDF5 file should have by its own account, None when that cannot be told."""
    if len(file) < END_OF_FILE + 8 or file.data[8] not in (2, 3):
        return None
    return int.from_bytes(file.data[END_OF_FILE : END_OF_FILE + 8], "little")


def _map(path: Path) -> Mapping:
    if path.is_dir():
        raise TraceError(f"{path} is a directory, not a trace.")
    part = part_of(path)
    if not path.exists():
        if part.exists():
            raise TraceError(
                f"{path} does not exist, but {part} does: its capture did not finish, or still runs. "
                f"Rescue what it holds with `firstdiff recover {part}`."
            )
        raise TraceError(f"{path} does not exist.")
    try:
        file = Mapping(path)
    except OSError as error:
        raise TraceError(f"{path} cannot be read ({error.strerror}).") from error
    if file.data[:8] != SIGNATURE:
        file.close()
        raise TraceError(f"{path} is not a trace: it is not an HDF5 file.")
    return file


def _contents(file: Mapping, partial: bool) -> Contents:
    path = file.path
    if path.suffix == ".part":
        if not partial:
            raise TraceError(
                f"{path} is unfinished: its capture was stopped, or still runs. "
                f"Rescue what it holds with `firstdiff recover {path}`."
            )
        return PartialContents(file)
    stated = stated_length(file)
    if stated is not None and len(file) < stated:
        if partial:
            return PartialContents(file)
        raise TraceError(
            f"{path} is truncated: it has {len(file)} of {stated} bytes. Copy it again, or rescue what it holds with "
            f"`firstdiff recover {path}`."
        )
    return _complete(file, partial)


def _complete(file: Mapping, partial: bool) -> Contents:
    path = file.path
    try:
        contents = CompleteContents(file)
    except (OSError, TraceError) as error:
        if partial:
            return PartialContents(file)
        if isinstance(error, TraceError):
            raise
        raise TraceError(
            f"{path} cannot be opened by HDF5 ({error}). Rescue what it holds with `firstdiff recover {path}`."
        ) from error
    if contents.complete:
        return contents
    contents.close()
    if partial:
        return PartialContents(file)
    raise TraceError(
        f"{path} is unfinished: its capture was stopped. Rescue what it holds with `firstdiff recover {path}`."
    )
