"""How single figures and indices are printed. Shared by the reports."""

from __future__ import annotations

from math import isinf, isnan
from textwrap import fill
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from firstdiff.diff.inside.answer import Zoom
    from firstdiff.diff.row import Row

_INDENT = " " * 6

BY_ITSELF = "check says it by itself where the reference is captured with --level function."
"""Beside the command that looks inside, where the reference's trace holds modules alone."""


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


def zoom_sentence(found: Zoom) -> str:
    """The function that is wrong, and how long the look into the module took."""
    return f"Function by function ({found.seconds:.1f} s): {found.summary}"


def part_text(row: Row) -> str:
    """What a part is compared with: `= the port's layers_0.attention.qkv[..., 0:64]`; empty where neither is one."""
    if row.pair is None or (row.pair.reference.part is None and row.pair.port.part is None):
        return ""
    key = row.pair.port.key
    return f"= the port's {key.path or 'result'}{key.leaf if row.pair.port.part else ''}"


_SURE = 0.9
_EVIDENCE = {
    "map": "by the map", "weights": "by weights", "name": "by name", "alias": "by a usual other name",
    "graph": "by the call graph", "only candidate": "as the only candidates", "values": "by value",
    "neighbours": "by their neighbours",
}  # fmt: skip


def pair_text(row: Row) -> str:
    """What a pair rests on, where that is not certain, or something contradicts it; else empty."""
    pair = row.pair
    if pair is None or (pair.confidence >= _SURE and not pair.conflict):
        return ""
    path = pair.port.key.path or "the model"
    sure = f", {pair.confidence:.0%} sure" if pair.confidence < _SURE else ""
    against = f"; {pair.conflict}" if pair.conflict else ""
    return f"paired with {path} {_EVIDENCE[pair.evidence]}{sure}{against}"


def layout_text(row: Row) -> str:
    """The layout of a row in words, empty for the identity."""
    return "" if row.layout is None else row.layout.words


def activation_text(dtype: str, shape: tuple[int, ...]) -> str:
    """``f32[2,3]``: what a tensor is, never what it holds."""
    short = (
        dtype.replace("bfloat", "bf").replace("float", "f").replace("uint", "u").replace("int", "i")
    )
    return short + index_text(shape)


def origin_texts(row: Row) -> tuple[str, str]:
    """The inherited and the added part of a row's error, relative L2; empty where nothing differs or is known."""
    found = row.origin
    if found is None or not (found.inherited or found.added):
        return "", ""
    return _part(found.inherited), _part(found.added)


def _part(error: float) -> str:
    return f"{error:.1e}" if error else "0"


def origin_sentence(row: Row) -> str:
    """Where the error of a row comes from; empty where that is not known."""
    found, measured = row.origin, row.measurement
    if found is None or measured is None or not measured.relative_l2:
        return ""
    error = f"Its error is {measured.relative_l2:.1e} (relative L2)"
    if not found.inherited:
        return f"{error}, none of it inherited: what it was made from agrees."
    if found.basis == "same value":
        return f"{error}, all of it inherited: the value is that of {found.source}."
    parts = f"{found.inherited:.1e} inherited, {found.added:.1e} added here"
    caution = " (gain not recorded)" if found.basis == "gain unknown" else ""
    return f"{error}: {parts}{caution}."


def indented(remark: str, width: int) -> str:
    """``remark`` on lines of its own below its row; names and paths stay whole."""
    return fill(
        remark,
        max(width, 2 * len(_INDENT)),
        initial_indent=_INDENT,
        subsequent_indent=_INDENT,
        break_long_words=False,
        break_on_hyphens=False,
    )
