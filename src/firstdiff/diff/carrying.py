"""Whether an error lives on where a module that read it shows nothing. Apart from `healing`, which asks.

Two ways in which a right result proves nothing. A normalisation divides a scale out again, while the residual stream
beside it keeps it. And no module stands around a residual connection: the very same error is found once more in the
next tensor of the stream.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import replace
from math import sqrt
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    from firstdiff.diff.measure import Measurement
    from firstdiff.diff.row import Row
    from firstdiff.traces.schema import Activation

_NORM = re.compile(r"norm|(^|_)ln(_|\d|$)", re.IGNORECASE)
_ALIKE = 0.5
"""Least cosine of two errors of which one is the other with something added; of sketches of unrelated errors it is
0 +- 1/8."""


def normalises(activation: Activation) -> bool:
    """Whether the module that ``activation`` belongs to is a normalisation, by its name or its class."""
    name = activation.key.path.rpartition(".")[2]
    return bool(_NORM.search(name) or _NORM.search(activation.class_name))


def unscaled(found: Measurement) -> Measurement:
    """``found`` with the error that is left when the port is divided by the one number that fits it best.

    With r the reference, p the port and c = <p, r> / |r|^2, that is |p/c - r| = |r| tan of the angle between them;
    of opposite tensors everything is left.
    """
    r, p = found.reference_l2, found.port_l2
    if r == 0 or p == 0:
        return found
    cosine = min(1.0, (p * p + r * r - found.error_l2**2) / (2 * p * r))
    if cosine <= 0:
        return found
    left = r * sqrt(1 - cosine**2) / cosine
    return found if left >= found.error_l2 else replace(found, error_l2=left, relative_l2=left / r)


class Errors:
    """The errors of wrong rows as sketches, by shape: where one of them is found again."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self._rows: dict[tuple[int, ...], list[Row]] = defaultdict(list)
        self._sketches: dict[tuple[int, ...], list[np.ndarray]] = defaultdict(list)
        self._stacked: dict[tuple[int, ...], np.ndarray] = {}
        for row in rows:
            sketch = _error_sketch(row) if row.verdict.bad else None
            if sketch is not None:
                self._rows[row.activation.shape].append(row)
                self._sketches[row.activation.shape].append(sketch)

    def containing(self, row: Row) -> list[Row]:
        """Later rows of the same shape and step whose error contains that of ``row``, by their sketches.

        With e and l the errors: <e, l> / <e, e> near 1, and a cosine above one half.
        """
        shape, error = row.activation.shape, _error_sketch(row)
        if error is None or shape not in self._rows:
            return []
        if shape not in self._stacked:
            self._stacked[shape] = np.stack(self._sketches[shape])
        others = self._stacked[shape]
        square, product = float(error @ error), others @ error
        if square == 0:
            return []
        sizes = np.sqrt(square * np.maximum((others**2).sum(1), np.finfo(float).tiny))
        found = (product / sizes > _ALIKE) & (np.abs(product / square - 1) < _ALIKE)
        return [
            self._rows[shape][number] for number in np.flatnonzero(found)
            if self._rows[shape][number].activation.order > row.activation.order
            and self._rows[shape][number].key.step == row.key.step
        ]  # fmt: skip


def _error_sketch(row: Row) -> np.ndarray | None:
    """float64[64] sketch of port - reference; None without sketches, or where the layouts differ."""
    pair = row.pair
    if pair is None or pair.reference.shape != pair.port.shape:
        return None
    if row.layout is not None and row.layout.words:
        return None
    sketches = [a.digest.sketch for a in (pair.reference, pair.port) if a.digest is not None]
    if len(sketches) < 2 or sketches[0] is None or sketches[1] is None:
        return None
    return np.asarray(sketches[1], np.float64) - np.asarray(sketches[0], np.float64)
