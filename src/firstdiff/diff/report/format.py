"""How single figures and indices are printed. Shared by the reports."""

from __future__ import annotations

from math import isinf, isnan
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from firstdiff.diff.row import Row


def index_text(index: tuple[int, ...]) -> str:
    """``[0,7,112]``: an index or a shape."""
    return f"[{','.join(map(str, index))}]"


def score_text(score: float | None) -> str:
    """An error / floor ratio: ``0.6``, ``37``, ``4.1e+05``; empty for none."""
    if score is None:
        return ""
    if score == 0 or isnan(score) or isinf(score):
        return f"{score:.1f}"
    return f"{score:.1f}" if score < 10 else f"{score:.0f}" if score < 1000 else f"{score:.1e}"


def value_text(value: float) -> str:
    """A signed value with three digits: ``+0.112``, ``-3.2e-07``."""
    return f"{value:+.3g}"


def part_text(row: Row) -> str:
    """What a part is compared with: `= the port's layers_0.attention.qkv[..., 0:64]`; empty where neither is one."""
    if row.pair is None or (row.pair.reference.part is None and row.pair.port.part is None):
        return ""
    key = row.pair.port.key
    return f"= the port's {key.path or 'result'}{key.leaf if row.pair.port.part else ''}"


def layout_text(row: Row) -> str:
    """The layout of a row in words, empty for the identity."""
    return "" if row.layout is None else row.layout.words


def activation_text(dtype: str, shape: tuple[int, ...]) -> str:
    """``f32[2,3]``: what a tensor is, never what it holds."""
    short = (
        dtype.replace("bfloat", "bf").replace("float", "f").replace("uint", "u").replace("int", "i")
    )
    return short + index_text(shape)
