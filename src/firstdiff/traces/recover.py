"""Rescue: a complete trace from what a killed, failed or cut one holds.

It reads the journal only, so it does not matter whether HDF5 still opens the file.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from firstdiff.traces.checksum import checksum
from firstdiff.traces.errors import TraceError
from firstdiff.traces.locking import is_being_written
from firstdiff.traces.names import describe
from firstdiff.traces.opening import open_journal
from firstdiff.traces.reader import Trace
from firstdiff.traces.writer import TraceWriter

if TYPE_CHECKING:
    from firstdiff.traces.schema import Activation, Key, Place


def recover(path: str | os.PathLike[str], output: str | os.PathLike[str] | None = None) -> Path:
    """Write a complete trace of everything that was committed to ``path``, and return its name.

    ``path`` is a part file, or a trace that was cut. ``output`` defaults to the name that the part file would have got,
    otherwise to `NAME.recovered.h5`. What is missing is said in the new header's notes. An activation whose bytes
    do not have the checksum that was recorded is left out. A part file from which everything was rescued is
    removed once its successor is on the disk, when ``output`` was not given; nothing else is.

    Raises `TraceError` when nothing can be rescued, ``path`` is still being written, or the output exists;
    `CaptureError` when the output cannot be written.
    """
    source = Path(path)
    target = _target(source) if output is None else Path(output)
    if target.exists():
        raise TraceError(
            f"{target} exists; name another output: `firstdiff recover {source} -o OTHER.h5`."
        )
    if source.is_file() and is_being_written(source):
        raise TraceError(
            f"{source} is still being written by another process; let it finish, or stop it."
        )
    file, contents = open_journal(source)
    with Trace(file, contents) as trace:
        rescue = _Rescue(trace, lost=contents.lost)
        rescue.write(target)
    if output is None and source.suffix == ".part" and not rescue.damaged and not contents.lost:
        source.unlink()
    return target


@dataclass
class _Rescue:
    """One trace's way into another."""

    trace: Trace
    lost: int
    """Committed arrays whose bytes are not in the file."""
    damaged: list[str] = field(default_factory=list)
    """What was left out because its bytes are not those that were committed."""
    _shared: dict[Place, Key] = field(default_factory=dict)

    def write(self, target: Path) -> None:
        """Copy everything that is whole. Leaves no part file of ``target`` behind when it fails."""
        activations = self.trace.recorded
        digest = not activations or any(a.digest is not None for a in activations)
        # Under a name of its own: `target.part` may be the very file that is being rescued.
        staged = target.with_name(f"{target.name}.rescued")
        writer = TraceWriter(staged, self.trace.header, digest=digest, overwrite=True)
        try:
            with writer:
                self._copy_inputs(writer)
                for name, found in self.trace.parameters.items():
                    writer.write_parameter(name, self.trace.stored(found), dtype=found.dtype)
                for activation in activations:
                    self._copy(writer, activation)
                for name in self.trace.tables:
                    rows = self.trace.table(name)
                    if rows is not None:
                        writer.write_table(name, rows)
                notes = (*self.trace.header.notes, self._note())
                writer.finish(replace(self.trace.header, notes=notes))
            staged.replace(target)
        except BaseException:
            writer.part.unlink(missing_ok=True)
            staged.unlink(missing_ok=True)
            raise

    def _copy_inputs(self, writer: TraceWriter) -> None:
        for name, found in self.trace.inputs.items():
            value = self.trace.input(name)
            if found.digest is None or checksum(value, found.dtype) == found.digest.checksum:
                writer.write_input(name, value, dtype=found.dtype)
            else:
                self.damaged.append(f"input {name}")

    def _copy(self, writer: TraceWriter, activation: Activation) -> None:
        if activation.place is None:
            writer.write_digest(activation)
            return
        value = self.trace.stored(activation)
        digest = activation.digest
        if digest is not None and checksum(value, activation.dtype) != digest.checksum:
            self.damaged.append(describe(activation.key))
            return
        writer.write(
            activation.key,
            value,
            dtype=activation.dtype,
            class_name=activation.class_name,
            axes=activation.axes,
            source=activation.source,
            same_as=self._shared.setdefault(activation.place, activation.key),
        )

    def _note(self) -> str:
        """What happened, for people."""
        activations = self.trace.recorded
        words = [
            f"Recovered from {self.trace.path.name}, which holds {len(activations)} activations."
        ]
        if not self.trace.complete:
            last = describe(activations[-1].key) if activations else "the start"
            words.append(f"Its capture did not finish: whatever came after {last} is missing.")
        if self.lost:
            words.append(
                f"{self.lost} more arrays were committed, but the file was cut before their bytes."
            )
        if self.damaged:
            words.append(
                f"{len(self.damaged)} were left out because their bytes are damaged: {', '.join(self.damaged[:8])}."
            )
        return " ".join(words)


def _target(source: Path) -> Path:
    if source.suffix == ".part":
        return source.with_suffix("")
    return source.with_name(f"{source.stem}.recovered.h5")
