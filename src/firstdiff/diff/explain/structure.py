"""Where in the first wrong tensor the error lies: by position, batch row, head and channel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from firstdiff.diff.explain.attention_family import is_attention_value
from firstdiff.diff.explain.scene import TINY, Scene
from firstdiff.traces.padding import token_axes

FEW = 0.1
"""A share of the heads or channels below which they are named one by one."""
_GROWTH = 3.0
_SHOWN = 6


@dataclass(frozen=True)
class Structure:
    """The error in parts. Each figure is relative L2, ||port - reference|| / ||reference||, over real tokens."""

    by_position: tuple[float, ...] = ()
    """Of each position of the sequence; NaN where every row is padded."""
    by_row: tuple[float, ...] = ()
    """Of each batch row."""
    by_head: tuple[float, ...] = ()
    """Of each head, where the tensor holds heads side by side."""
    wrong_channels: tuple[int, ...] = ()
    """Channels that are wrong, when only few of them are."""
    channels: int = 0
    """Channels altogether."""
    where_masked: float = 0.0
    """||port - reference|| / ||reference|| over padded tokens, 0 without padding: garbage by design."""
    words: str = ""
    """All of this as a phrase: `heads alike`, `only heads 2 and 3 are wrong`, `only channel 7 is wrong`."""


def find_structure(scene: Scene) -> Structure:
    """The structure of the error at ``scene``."""
    error, size = (np.where(scene.valid, x, 0) ** 2 for x in (_difference(scene), scene.right))
    limit = scene.floor / max(float(np.sqrt(size.sum())), TINY)
    limit *= max(3.0, min(8.0, float(np.sqrt(error.sum())) / scene.floor / 2))
    heads = _by_head(scene, error, size)
    channels = _ratio(_fold(error), _fold(size))
    wrong = np.flatnonzero(channels > limit)
    few = tuple(int(c) for c in wrong) if 0 < len(wrong) <= max(1, FEW * len(channels)) else ()
    rows, positions = _by_token(scene, error, size)
    return Structure(
        by_position=tuple(positions),
        by_row=tuple(rows),
        by_head=tuple(heads),
        wrong_channels=few,
        channels=len(channels),
        where_masked=_where_masked(scene),
        words=_words(np.asarray(heads), few, limit),
    )


def _difference(scene: Scene) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        return np.asarray(np.nan_to_num(scene.wrong - scene.right, nan=0, posinf=0, neginf=0))


def _ratio(error: np.ndarray, size: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.sqrt(error / size))


def _fold(squares: np.ndarray) -> np.ndarray:
    """Sums by channel: the last axis."""
    return (
        np.asarray(squares.reshape(-1, squares.shape[-1]).sum(0))
        if squares.ndim
        else squares.reshape(1)
    )


def _by_token(scene: Scene, error: np.ndarray, size: np.ndarray) -> tuple[list[float], list[float]]:
    """By batch row and by position; empty where the tensor has no such axes."""
    grid = _grid(scene)
    axes = token_axes(error.shape, *grid) if grid else None
    if axes is None:
        return [], []
    found = []
    for axis in axes:
        rest = tuple(a for a in range(error.ndim) if a != axis)
        found.append([float(r) for r in _ratio(error.sum(rest), size.sum(rest))])
    return found[0], found[1]


def _grid(scene: Scene) -> tuple[int, int] | None:
    if scene.padding is not None:
        return scene.padding.shape[0], scene.padding.shape[1]
    for found in scene.reference.inputs.values():
        if len(found.shape) == 2:
            return found.shape[0], found.shape[1]
    return None


def _by_head(scene: Scene, error: np.ndarray, size: np.ndarray) -> list[float]:
    heads = int(scene.config.get("num_attention_heads") or scene.config.get("n_head") or 0)
    d = int(scene.config.get("head_dim") or 0) or (
        int(scene.config.get("hidden_size") or 0) // heads if heads else 0
    )
    width = error.shape[-1] if error.ndim else 0
    if not d or width % d or width == d or not is_attention_value(scene):
        return []
    parts = [x.reshape(-1, width // d, d).sum((0, 2)) for x in (error, size)]
    return [float(r) for r in _ratio(*parts)]


def _where_masked(scene: Scene) -> float:
    """The error outside the valid elements."""
    if scene.valid.all():
        return 0.0
    error, size = (
        x[~scene.valid]
        for x in (_difference(scene), np.nan_to_num(scene.right, posinf=0, neginf=0))
    )
    return float(np.sqrt((error**2).sum() / max(float((size**2).sum()), TINY)))


def _words(heads: np.ndarray, channels: tuple[int, ...], limit: float) -> str:
    if channels:
        return f"only {_named('channel', channels)} {'is' if len(channels) == 1 else 'are'} wrong"
    if len(heads) < 2:
        return ""
    wrong = np.flatnonzero(heads > limit)
    if 0 < len(wrong) < len(heads):
        return f"only {_named('head', tuple(int(h) for h in wrong))} {'is' if len(wrong) == 1 else 'are'} wrong"
    return "heads alike" if heads.max() < _GROWTH * heads.min() else "heads unequally"


def _named(what: str, numbers: tuple[int, ...]) -> str:
    shown = ", ".join(map(str, numbers[:_SHOWN])) + (", ..." if len(numbers) > _SHOWN else "")
    return f"{what}{'' if len(numbers) == 1 else 's'} {shown}"
