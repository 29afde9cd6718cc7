"""What goes wrong when weights are loaded, one small change each, done to a right twin.

Each says which of the port's parameters it touched, or removed, or added, so that an audit can be scored.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from firstdiff.models.twins import Twin


@dataclass(frozen=True)
class Damage:
    """One thing done to a twin."""

    name: str
    """Which of `DAMAGES`."""
    touched: tuple[str, ...]
    """Names of the port's parameters that are wrong now, or gone."""
    findings: tuple[str, ...]
    """Findings of which an audit has to report one."""


Change = Callable[[Twin, np.random.Generator], Damage | None]
"""Does it, in place; None when the twin has nothing that it could be done to."""


def _pick(
    twin: Twin, random: np.random.Generator, test: Callable[[str, np.ndarray], bool]
) -> str | None:
    names = [name for name, value in twin.values.items() if test(name, value)]
    return names[random.integers(len(names))] if names else None


def _matrix(name: str, value: np.ndarray) -> bool:
    return value.ndim == 2 and min(value.shape) > 3 and "embed" not in name and not _table(name)


def _table(name: str) -> bool:
    return (
        name.endswith(("embedding", "embeddings"))
        or "token" in name
        or "wte" in name
        or "wpe" in name
    )


def _square_turned(twin: Twin, random: np.random.Generator) -> Damage | None:
    name = _pick(
        twin,
        random,
        lambda n, v: _matrix(n, v) and v.shape[0] == v.shape[1] and len(twin.sources[n]) == 1,
    )
    if name is None:
        return None
    twin.values[name] = np.ascontiguousarray(twin.values[name].T)
    return Damage("square turned", (name,), ("not transposed", "wrongly transposed"))


def _reshaped(twin: Twin, random: np.random.Generator) -> Damage | None:
    name = _pick(twin, random, lambda n, v: _matrix(n, v) and v.shape[0] != v.shape[1])
    if name is None:
        return None
    value = twin.values[name]
    twin.values[name] = np.ascontiguousarray(value.T).reshape(value.shape)
    return Damage(
        "reshaped instead of transposed",
        (name,),
        (
            "not transposed",
            "wrongly transposed",
            "reordered",
            "differs",
            "never loaded",
            "missing",
            "partly",
        ),
    )


def _exchanged(twin: Twin, random: np.random.Generator) -> Damage | None:
    name = _pick(twin, random, lambda n, v: v.ndim > 0 and len(_peers(twin, n)) > 0)
    if name is None:
        return None
    peers = _peers(twin, name)
    other = peers[random.integers(len(peers))]
    twin.values[name], twin.values[other] = twin.values[other], twin.values[name]
    return Damage("exchanged", (name, other), ("exchanged", "duplicated", "missing", "partly"))


def _peers(twin: Twin, name: str) -> list[str]:
    """Parameters of another layer with the same words."""
    words = [part.rstrip("0123456789") for part in name.split(".")]
    return [
        other
        for other, value in twin.values.items()
        if other != name
        and value.shape == twin.values[name].shape
        and [part.rstrip("0123456789") for part in other.split(".")] == words
        and other.split(".")[-2:][0].rstrip("0123456789") == other.split(".")[-2:][0]
    ]


def _missing(twin: Twin, random: np.random.Generator) -> Damage | None:
    name = _pick(twin, random, lambda _n, _v: True)
    if name is None:
        return None
    del twin.values[name]
    return Damage("missing", (name,), ("missing", "never loaded", "partly"))


def _zeroed(twin: Twin, random: np.random.Generator) -> Damage | None:
    name = _pick(twin, random, lambda _n, v: v.ndim == 1)
    if name is None:
        return None
    twin.values[name] = np.zeros_like(twin.values[name])
    return Damage("never loaded: zeros", (name,), ("never loaded", "missing", "partly"))


def _initial(twin: Twin, random: np.random.Generator) -> Damage | None:
    name = _pick(twin, random, _matrix)
    if name is None:
        return None
    value = twin.values[name]
    twin.values[name] = (random.normal(size=value.shape) / np.sqrt(value.shape[0])).astype(
        value.dtype
    )
    return Damage(
        "never loaded: initialiser",
        (name,),
        ("never loaded", "differs", "missing", "partly", "untied"),
    )


def _untied(twin: Twin, random: np.random.Generator) -> Damage | None:
    tables = [
        n
        for n, v in twin.values.items()
        if v.ndim == 2 and _table(n) and "pos" not in n and "wpe" not in n
    ]
    if not tables or any("head" in n or "output" in n for n in twin.values):
        return None
    value = max((twin.values[n] for n in tables), key=lambda v: v.size)
    head = random.normal(0, 0.02, value.shape[::-1]).astype(value.dtype)
    twin.values["lm_head.kernel"] = head
    twin.sources["lm_head.kernel"] = ()
    return Damage("untied head", ("lm_head.kernel",), ("untied", "unused"))


def _unused_bias(twin: Twin, random: np.random.Generator) -> Damage | None:
    name = _pick(
        twin,
        random,
        lambda n, v: _matrix(n, v) and n.rpartition(".")[0] + ".bias" not in twin.values,
    )
    if name is None:
        return None
    leaf = f"{name.rpartition('.')[0]}.bias"
    twin.values[leaf] = np.asarray(random.normal(size=twin.values[name].shape[-1:])).astype(
        twin.values[name].dtype
    )
    twin.sources[leaf] = ()
    return Damage("unused bias", (leaf,), ("unused", "untied"))


def _duplicated(twin: Twin, random: np.random.Generator) -> Damage | None:
    name = _pick(twin, random, lambda n, _v: len(_peers(twin, n)) > 0)
    if name is None:
        return None
    peers = _peers(twin, name)
    twin.values[name] = twin.values[peers[random.integers(len(peers))]].copy()
    return Damage(
        "duplicated", (name,), ("duplicated", "missing", "never loaded", "exchanged", "partly")
    )


def _element(twin: Twin, random: np.random.Generator) -> Damage | None:
    name = _pick(twin, random, lambda _n, v: v.ndim >= 2 and min(v.shape) > 3)
    if name is None:
        return None
    value = twin.values[name].copy()
    where = tuple(int(random.integers(n)) for n in value.shape)
    value[where] = value[where] * 2 + 1
    twin.values[name] = value
    return Damage("one element", (name,), ("partly", "differs"))


def _rows_zero(twin: Twin, random: np.random.Generator) -> Damage | None:
    name = _pick(twin, random, lambda _n, v: v.ndim >= 2 and v.shape[-1] > 3 and min(v.shape) > 3)
    if name is None:
        return None
    value = twin.values[name].copy()
    value[..., 1] = 0
    twin.values[name] = value
    return Damage("one column zero", (name,), ("partly", "differs"))


def _slice_lost(twin: Twin, random: np.random.Generator) -> Damage | None:
    """One layer of a stack never written."""
    name = _pick(
        twin, random, lambda n, v: len(twin.sources[n]) == 3 and 3 in v.shape and v.ndim >= 2
    )
    if name is None:
        return None
    value = twin.values[name].copy()
    axis = value.shape.index(3)
    np.moveaxis(value, axis, 0)[1] = 0
    twin.values[name] = value
    return Damage(
        "one layer of a stack lost", (name,), ("never loaded", "missing", "partly", "differs")
    )


DAMAGES: dict[str, Change] = {
    "square turned": _square_turned,
    "reshaped": _reshaped,
    "exchanged": _exchanged,
    "missing": _missing,
    "zeroed": _zeroed,
    "initial": _initial,
    "untied": _untied,
    "unused bias": _unused_bias,
    "duplicated": _duplicated,
    "element": _element,
    "column zero": _rows_zero,
    "slice lost": _slice_lost,
}
"""By name."""


def damage(twin: Twin, name: str, random: np.random.Generator) -> Damage | None:
    """Do one damage to ``twin``, in place."""
    return DAMAGES[name](twin, random)
