"""Finding recorded values by what they are for: queries, keys, values, rotary tables, masks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from firstdiff.diff.aliases import readings
from firstdiff.diff.explain.scene import Scene, is_float

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

    from firstdiff.traces.schema import Activation


def roles(path: str) -> frozenset[str]:
    """What the module at ``path`` may be, by its name: `attention.q`, `mlp.gate`, `rotary`."""
    return frozenset(reading[-1] for reading in readings(path) if reading)


def latest(scene: Scene, role: str, site: str = "output") -> Activation | None:
    """The last floating-point tensor before the scene's, given to or returned by a module of this ``role``."""
    for activation in scene.before():
        if (
            activation.key.site == site
            and is_float(activation)
            and role in roles(activation.key.path)
        ):
            return activation
    return None


@dataclass(frozen=True)
class Tables:
    """Rotary tables, float64."""

    cos: np.ndarray
    """[1 or batch, tokens, width]."""
    sin: np.ndarray
    """The same."""


def rotary_tables(
    scene: Scene, read: Callable[[Activation], np.ndarray] | None = None
) -> Tables | None:
    """cos and sin as the attention was given them, else as the rotary embedding returned them; None without any.

    ``read`` is `Scene.recorded`, the default, or `Scene.given`: the reference's, or the port's where they agree.
    """
    read = read or scene.recorded
    found: dict[str, Activation] = {}
    for activation in scene.before():
        part = _table(activation)
        if part and is_float(activation) and len(activation.shape) == 3:
            found.setdefault(part, activation)
        if len(found) == 2:
            pair = found["0"], found["1"]
            return Tables(*map(read, pair)) if pair[0].shape == pair[1].shape else None
    return None


def _table(activation: Activation) -> str:
    """`0` for cos, `1` for sin, empty for anything else."""
    name, _, last = activation.key.leaf.rpartition(".")
    if name == "position_embeddings" and last in ("0", "1"):
        return last
    is_result = activation.key.site == "output" and "rotary" in roles(activation.key.path)
    return activation.key.leaf if is_result and activation.key.leaf in ("0", "1") else ""


def recorded_mask(scene: Scene) -> np.ndarray | None:
    """The last attention mask of four axes before the scene's tensor: bool [batch, 1 or heads, queries, keys]."""
    for activation in scene.before():
        if "mask" in activation.key.leaf and len(activation.shape) == 4:
            return scene.visible(activation)
    return None
