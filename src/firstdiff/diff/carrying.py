"""Whether an error lives on where a module that read it shows nothing. Apart from `healing`, which asks.

Two ways in which a right result proves nothing. A normalisation divides a scale out again, while the residual stream
beside it keeps it. And no module stands around a residual connection: the very same error is found once more in the
next tensor of the stream.
"""

from __future__ import annotations

import re
from dataclasses import replace
from math import sqrt
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
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


def carries(later: Row, row: Row) -> bool:
    """Whether the error of ``row`` is contained in that of ``later``, a tensor of the same shape, by their sketches.

    With e and l their errors: <e, l> / <e, e> near 1, and a cosine above one half.
    """
    if row.activation.shape != later.activation.shape:
        return False
    error, other = _error_sketch(row), _error_sketch(later)
    if error is None or other is None:
        return False
    square, product = float(error @ error), float(error @ other)
    if square == 0 or product <= 0:
        return False
    cosine = product / sqrt(square * float(other @ other))
    return cosine > _ALIKE and abs(product / square - 1) < _ALIKE


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
