"""A match: where a reference parameter, or a part of it, lies in the port. What matchers find and the judge reads."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from firstdiff.diff.weights.grain import numbers

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from firstdiff.diff.weights.fingerprint import Fingerprint
    from firstdiff.traces.parameters import Parameter

Turn = Literal["kept", "turned", ""]
"""Whether a matrix lies as in the reference or transposed; empty where the question makes no sense."""

SAME = "same values"
"""The relation of two parameters of which digests do not tell how their values lie."""

Fixed = tuple[tuple[int, int], ...]
"""(axis, index): axes of a parameter of which one slice is meant, as of a scanned stack or of batched experts."""


@dataclass(frozen=True)
class Match:
    """Values of a reference parameter found in a port parameter."""

    reference: int
    """Number of the reference parameter."""
    port: int
    """Number of the port parameter."""
    relation: str = "equal"
    """What turns one into the other, for people: `equal`, `transposed`, `axes (2, 3, 1, 0)`."""
    turn: Turn = ""
    """For matrices, whether rows became columns."""
    forced: bool = True
    """Whether the shapes leave no other relation."""
    others: tuple[str, ...] = ()
    """Other relations that would fit the shapes."""
    reference_fixed: Fixed = ()
    """The slice of the reference that it is about; () for all of it."""
    port_fixed: Fixed = ()
    """The slice of the port."""
    reference_part: str = ""
    """Which part of (the slice of) the reference, in words: `[0:64] of 192`."""
    port_part: str = ""
    """Which part of (the slice of) the port."""
    order: str = ""
    """In what way the order of rows or columns was changed; empty when it was not."""
    order_kind: str = ""
    """Kind of that change (`pattern.Kind`)."""
    grain: str = "float32"
    """The precision at which the values are equal."""
    scale: float = 1.0
    """port = scale * reference + offset."""
    offset: float = 0.0
    """See ``scale``."""
    share: float = 1.0
    """Part of the reference's fibres that was found, 0 to 1."""
    detail: str = ""
    """What differs, where something does."""
    certain: bool = True
    """False where the values are constant or sought by name: they say little about identity."""
    rows: tuple[np.ndarray, np.ndarray] | None = field(default=None, compare=False, repr=False)
    """For a part: int[m] fibres of the reference and of the port, flat over the other axes; a bias follows them."""
    along: tuple[int, int] = (-1, -1)
    """For a part: the axes of both along which the fibres run; -1 for vectors, whose fibres are their elements."""

    @property
    def exact(self) -> bool:
        """Whether every value of the part is there unchanged."""
        return self.share == 1.0 and self.scale == 1.0 and self.offset == 0.0


@dataclass(frozen=True)
class Side:
    """The parameters of one side with their fingerprints."""

    parameters: tuple[Parameter, ...]
    """As extracted."""
    prints: tuple[Fingerprint, ...]
    """One for each."""

    def __len__(self) -> int:
        return len(self.parameters)

    def loadable(self, number: int) -> bool:
        """Whether the elements can be had, not only digests."""
        return self.parameters[number].load is not None

    def stored(self, number: int) -> np.ndarray:
        """The storage array, in its shape."""
        parameter = self.parameters[number]
        assert parameter.load is not None
        return parameter.load().reshape(parameter.shape)

    def region(self, number: int, fixed: Fixed) -> np.ndarray:
        """Storage array of a slice: the axes of ``fixed`` are gone."""
        return self.stored(number)[selector(self.parameters[number].shape, fixed)]

    def numbers(self, number: int, fixed: Fixed = ()) -> np.ndarray:
        """The numbers of a slice."""
        return numbers(self.region(number, fixed), self.parameters[number].dtype)


def selector(shape: Sequence[int], fixed: Fixed) -> tuple[int | slice, ...]:
    """An index that takes the slice ``fixed`` of an array of ``shape``."""
    where = dict(fixed)
    return tuple(where.get(axis, slice(None)) for axis in range(len(shape)))


def without(shape: Sequence[int], fixed: Fixed) -> tuple[int, ...]:
    """The shape of that slice."""
    gone = {axis for axis, _ in fixed}
    return tuple(n for axis, n in enumerate(shape) if axis not in gone)


def fibres_of(found: Fingerprint, grain: str, ndim: int, fixed: Fixed) -> dict[int, np.ndarray]:
    """Hashes of the fibres of a slice, by the slice's own axes."""
    gone = dict(fixed)
    kept = [axis for axis in range(ndim) if axis not in gone]
    result = {}
    for axis, values in found.fibres.get(grain, {}).items():
        if axis in gone:
            continue
        rest = [a for a in range(ndim) if a != axis]
        result[kept.index(axis)] = values[tuple(gone.get(a, slice(None)) for a in rest)]
    return result
