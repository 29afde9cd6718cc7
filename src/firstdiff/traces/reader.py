"""Reading a trace.

Opening one costs its header; the rest is read when it is asked for, elements as views of the mapped file.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from firstdiff.traces.dtypes import stored_dtype, widen
from firstdiff.traces.errors import TraceError
from firstdiff.traces.opening import open_contents

if TYPE_CHECKING:
    import numpy as np

    from firstdiff.traces.contents import Contents, TablePlace
    from firstdiff.traces.mapping import Mapping
    from firstdiff.traces.schema import Activation, Digest, Header


@dataclass(frozen=True)
class Input:
    """One model input."""

    name: str
    """Keyword under which the model took it."""
    dtype: str
    """Logical dtype."""
    shape: tuple[int, ...]
    """Shape; () for a scalar."""
    digest: Digest | None
    """Its statistics; the checksums of equal inputs are equal."""


class Trace:
    """An open trace: a context manager. Arrays that it gave stay valid after it is closed."""

    def __init__(self, file: Mapping, contents: Contents) -> None:
        self.path: Path = file.path
        self.header: Header = contents.header
        self.complete: bool = contents.complete
        self._file = file
        self._contents = contents
        self._added: dict[str, np.ndarray] = {}

    def __enter__(self) -> Trace:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file. Idempotent."""
        self._contents.close()
        self._file.close()

    @cached_property
    def activations(self) -> tuple[Activation, ...]:
        """Every activation of a module, in execution order."""
        return tuple(a for a in self.recorded if a.key.level == "module")

    @cached_property
    def deeper(self) -> tuple[Activation, ...]:
        """Every activation of a function or an operation inside a module, in execution order."""
        return tuple(a for a in self.recorded if a.key.level != "module")

    @cached_property
    def recorded(self) -> tuple[Activation, ...]:
        """Both together, in execution order."""
        return self._contents.activations()

    @cached_property
    def inputs(self) -> dict[str, Input]:
        """The model's inputs by name."""
        return {
            name: Input(name, found.dtype, found.shape, found.digest)
            for name, found in self._input_places.items()
        }

    @cached_property
    def parameters(self) -> dict[str, Activation]:
        """The model's parameters by name, where the capture kept them in full: `stored` gives their values."""
        return self._contents.parameters()

    @cached_property
    def tables(self) -> tuple[str, ...]:
        """Names of the tables, sorted."""
        return tuple(sorted({*self._table_places, *self._added}))

    def find(self, glob: str) -> tuple[Activation, ...]:
        """The activations of all levels whose module path matches ``glob`` (`*.self_attn.*`), in execution order."""
        return tuple(a for a in self.recorded if fnmatchcase(a.key.path, glob))

    def stored(self, activation: Activation) -> np.ndarray:
        """The storage array of an activation of this trace, read-only: bits for bfloat16, float8 and the like.

        A view of the mapped file; of a part (`part.part_of`) perhaps a copy. Raises `TraceError` for a digest-only
        trace and a damaged file.
        """
        if activation.part is not None:
            return activation.part.cut.of(self.stored(activation.part.whole))
        place = activation.place
        if place is None:
            raise TraceError(
                f"{self.path}: the elements of {activation.key.path or '(root)'} {activation.key.site} were not kept: "
                "the trace holds digests only. Capture again without --digest."
            )
        dtype = stored_dtype(activation.dtype)
        if not place.nbytes:
            return self._file.array(0, dtype, _consistent(self.path, activation, dtype))
        address, size = self._contents.locate(place.dataset)
        if place.offset < 0 or place.offset + place.nbytes > size:
            raise TraceError(
                f"{self.path}: {activation.key.path} lies at bytes {place.offset} to {place.offset + place.nbytes} of "
                f"{place.dataset}, which has {size}: the trace is damaged."
            )
        shape = _consistent(self.path, activation, dtype)
        return self._file.array(address + place.offset, dtype, shape)

    def values(self, activation: Activation) -> np.ndarray:
        """The numbers of an activation: bfloat16 and small floats widened to float32, exactly; others as they are."""
        return widen(self.stored(activation), activation.dtype)

    def blocks(self, activation: Activation, elements: int = 1 << 20) -> Iterator[np.ndarray]:
        """The numbers of an activation, flattened in C order, in arrays of at most ``elements``: bounded memory."""
        flat = self.stored(activation).reshape(-1)
        for start in range(0, flat.size, elements):
            yield widen(flat[start : start + elements], activation.dtype)

    def input(self, name: str) -> np.ndarray:
        """The storage array of a model input, read-only. Raises `TraceError` when there is none of that name."""
        return self.stored(self._input(name))

    def input_values(self, name: str) -> np.ndarray:
        """The numbers of a model input, widened like `values`."""
        return self.values(self._input(name))

    def table(self, name: str) -> np.ndarray | None:
        """The rows of a table, read-only, or None when there is none of that name."""
        if name in self._added:
            return self._added[name]
        place = self._table_places.get(name)
        return self._file.array(place.address, place.dtype, (place.rows,)) if place else None

    def with_tables(self, tables: dict[str, np.ndarray], header: Header) -> Trace:
        """The same trace with ``tables`` that were measured since, and a ``header`` that says so.

        Its file stays as it is, and both are that one open file: to close either closes the other.
        """
        other = Trace(self._file, self._contents)
        other.header, other._added = header, {**self._added, **tables}
        return other

    @cached_property
    def _input_places(self) -> dict[str, Activation]:
        return self._contents.inputs()

    @cached_property
    def _table_places(self) -> dict[str, TablePlace]:
        return self._contents.tables()

    def _input(self, name: str) -> Activation:
        try:
            return self._input_places[name]
        except KeyError:
            known = ", ".join(self._input_places) or "none"
            raise TraceError(f"{self.path} has no input {name!r}; it has {known}.") from None


def open_trace(path: str | os.PathLike[str], *, partial: bool = False) -> Trace:
    """Open a trace for reading.

    ``partial`` also opens one that is still being written, was never finished, or is cut: what was committed is
    there, sketches are not. Raises `TraceError` when ``path`` is no trace, is of a newer format, is truncated, or,
    without ``partial``, unfinished.
    """
    file, contents = open_contents(Path(path), partial=partial)
    return Trace(file, contents)


def _consistent(path: Path, activation: Activation, dtype: np.dtype) -> tuple[int, ...]:
    """The shape, when it fits the number of bytes."""
    nbytes = activation.place.nbytes if activation.place else 0
    if prod(activation.shape) * dtype.itemsize != nbytes:
        raise TraceError(
            f"{path}: {activation.key.path or '(root)'} has {nbytes} bytes, but {activation.dtype}"
            f"{list(activation.shape)} takes {prod(activation.shape) * dtype.itemsize}: the trace is damaged."
        )
    return activation.shape
