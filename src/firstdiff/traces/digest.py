"""Statistics of an activation, computed at capture."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from zlib import crc32

from firstdiff.traces.dtypes import widen
from firstdiff.traces.schema import Digest


def digest(stored: np.ndarray, dtype: str) -> Digest:
    """x"""
    x = widen(stored, dtype).reshape(-1).astype(np.float64)
    f = x[np.isfinite(x)]
    return Digest(
        x.size,
        int(np.isnan(x).sum()),
        int((x == np.inf).sum()),
        int((x == -np.inf).sum()),
        *(
            (float(f.mean()), float(np.sqrt(np.mean(f * f))), float(f.min()), float(f.max()))
            if f.size
            else (0.0, 0.0, 0.0, 0.0)
        ),
        crc32(stored.tobytes()),
        np.zeros(64),
    )
