"""Hypotheses for attention between recorded projections and the input of the output projection."""

from __future__ import annotations

from dataclasses import replace
from math import isclose, sqrt
from typing import TYPE_CHECKING

import numpy as np

from firstdiff.diff.explain.attention import Attention, Operands, attend
from firstdiff.diff.explain.attention_changes import BASE, CHANGES, CUT, SCALE
from firstdiff.diff.explain.fused import CUTS, cut
from firstdiff.diff.explain.hypothesis import Hypothesis
from firstdiff.diff.explain.roles import latest, recorded_mask, roles, rotary_tables
from firstdiff.diff.explain.rotary import BASES, measure_angles
from firstdiff.diff.explain.scene import Scene, is_float, norm

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from firstdiff.traces.schema import Activation

MOST = 1 << 22
"""Scores (batch x heads x queries x keys) evaluated at once; of more queries, some are taken, spread evenly."""
LEAST_QUERIES = 16
"""Attention of which only fewer queries could be evaluated is left alone."""
_STEPS = 6


def attention(scene: Scene) -> Iterator[Hypothesis]:
    """Hypotheses for the merged heads: the input of a module named as an attention's output projection."""
    key = scene.target.key
    if (
        key.site != "input"
        or "attention.out" not in roles(key.path)
        or len(scene.target.shape) != 3
    ):
        return
    for mine, theirs in _operands(scene):
        spec = _recognise(scene, mine)
        if spec is not None:
            yield from _wrong(scene, theirs, spec)
            yield from _other_cuts(scene, theirs, spec)
            return


def _operands(scene: Scene) -> Iterator[tuple[Operands, Operands]]:
    """The operands as the reference recorded them and as the port had them, for each mask there may be."""
    for ours, theirs, d in _projected(scene):
        q, k, _ = ours
        some = _queries(q.shape[0] * q.shape[-1] // d, q.shape[1], k.shape[1])
        if some is not None and len(some) < min(LEAST_QUERIES, q.shape[1]):
            return
        masks, real = _masks(scene, q.shape[0], q.shape[1], k.shape[1])
        sides = (ours, _tables(scene, scene.recorded)), (theirs, _tables(scene, scene.given))
        for mask in masks:
            mine, given = (Operands(*side, d, mask, real, tables, some) for side, tables in sides)
            yield mine, given


Side = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Queries, keys and values."""


def _projected(scene: Scene) -> Iterator[tuple[Side, Side, int]]:
    """The reference's and the port's queries, keys and values, and head_dim; every cut of a fused projection."""
    found = _projections(scene)
    if found is not None:
        activations, d = found
        ours, theirs = (
            (read(activations[0]), read(activations[1]), read(activations[2]))
            for read in (scene.recorded, scene.given)
        )
        yield ours, theirs, d
        return
    fused = _fused(scene)
    if fused is not None:
        activation, heads, groups, d = fused
        for name in CUTS:
            sides = [
                cut(read(activation), name, heads, groups, d)
                for read in (scene.recorded, scene.given)
            ]
            if sides[0] is not None and sides[1] is not None:
                yield sides[0], sides[1], d


def _fused(scene: Scene) -> tuple[Activation, int, int, int] | None:
    """A projection that makes queries, keys and values, with heads, key-value heads and head_dim."""
    activation = latest(scene, "attention.qkv")
    heads = int(scene.config.get("num_attention_heads") or scene.config.get("n_head") or 0)
    if activation is None or len(activation.shape) != 3 or not heads:
        return None
    groups = int(scene.config.get("num_key_value_heads") or heads)
    d, rest = divmod(activation.shape[-1], heads + 2 * groups)
    same = activation.shape[:2] == scene.target.shape[:2] and heads * d == scene.target.shape[-1]
    return None if rest or not same else (activation, heads, groups, d)


def _other_cuts(scene: Scene, given: Operands, right: Attention) -> Iterator[Hypothesis]:
    """A fused projection cut in another way."""
    fused = _fused(scene) if _projections(scene) is None else None
    if fused is None:
        return
    activation, heads, groups, d = fused
    null = attend(given, right)
    for name in CUTS:
        side = cut(scene.given(activation), name, heads, groups, d)
        if side is not None and not all(map(np.array_equal, side, (given.q, given.k, given.v))):
            value = attend(replace(given, q=side[0], k=side[1], v=side[2]), right)
            yield Hypothesis(CUT, f"cutting the fused projection into {name}", value, null)


def _projections(scene: Scene) -> tuple[tuple[Activation, Activation, Activation], int] | None:
    """The last queries, keys and values before the tensor, and head_dim."""
    q, k, v = (latest(scene, f"attention.{name}") for name in "qkv")
    if q is None or k is None or v is None or len(q.shape) != 3 or k.shape != v.shape:
        return None
    d = _head_dim(scene, q.shape[-1])
    if not d or q.shape[-1] % d or k.shape[-1] % d or (q.shape[-1] // d) % (k.shape[-1] // d):
        return None
    return (q, k, v), d


def _queries(rows: int, queries: int, keys: int) -> np.ndarray | None:
    """Queries to evaluate; None means all."""
    count = MOST // (rows * keys)
    return None if count >= queries else np.linspace(0, queries - 1, count).astype(int)


def _head_dim(scene: Scene, width: int) -> int:
    config = scene.config
    if config.get("head_dim"):
        return int(config["head_dim"])
    heads = next(
        (config[n] for n in ("num_attention_heads", "n_head", "num_heads") if config.get(n)), 0
    )
    if heads:
        return width // int(heads)
    tables = rotary_tables(scene)
    return tables.cos.shape[-1] if tables is not None else 0


def _masks(
    scene: Scene, batch: int, queries: int, keys: int
) -> tuple[list[np.ndarray], np.ndarray]:
    """Masks that the reference may have used, the recorded one alone where there is one; and the real tokens."""
    real = np.ones((batch, 1, 1, keys), bool)
    if scene.padding is not None and scene.padding.shape == (batch, keys):
        real = scene.padding[:, None, None, :]
    recorded = recorded_mask(scene)
    causal = np.tril(np.ones((queries, keys), bool), keys - queries)
    if recorded is not None and recorded.shape[-2:] == (queries, keys):
        return [recorded], real
    return [
        np.broadcast_to(m, (batch, 1, queries, keys))
        for m in (causal & real, real, np.ones_like(real))
    ], real


def _tables(
    scene: Scene, read: Callable[[Activation], np.ndarray]
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Rotary tables by name: those of one side as ``read`` gives them, and those of other bases where the reference's
    angles can be measured."""
    found, used = rotary_tables(scene), rotary_tables(scene, read)
    if found is None or used is None:
        return {}
    tables = {"recorded": (used.cos, used.sin)}
    angles = measure_angles(found.cos, found.sin)
    if angles is not None:
        tables |= {f"{base:g}": angles.tables(base) for base in BASES if not angles.has(base)}
    return tables


def _recognise(scene: Scene, given: Operands) -> Attention | None:
    """The semantics that reproduce the reference's tensor; None when none of those known does."""
    d = given.head_dim
    scalar = scene.config.get("query_pre_attn_scalar")
    scales = [float(scalar) ** -0.5] if scalar else []
    window = _window(scene)
    cap = float(scene.config.get("attn_logit_softcapping") or 0.0)
    pairings = ("half", "interleaved", "none") if given.tables else ("none",)
    for scale in dict.fromkeys((*scales, 1 / sqrt(d), 1.0)):
        for pairing in pairings:
            for span in dict.fromkeys((0, window)):
                spec = Attention(rotary=pairing, scale=scale, cap=cap, window=span)
                if scene.reproduces(attend(given, spec)):
                    return spec
    return None


def _window(scene: Scene) -> int:
    used = scene.config.get("use_sliding_window", True)
    return int(scene.config.get("sliding_window") or 0) if used else 0


def _wrong(scene: Scene, given: Operands, right: Attention) -> Iterator[Hypothesis]:
    null = attend(given, right)
    for change in CHANGES:
        wrong = replace(right, **change.settings)
        if wrong != right and _applies(wrong, right):
            with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
                value = attend(given, wrong)
            group = given.head_dim if change.settings.get("rounded") == "softmax" else 0
            yield Hypothesis(
                change.cause, change.words, value, null, precision=change.precision, group=group
            )
    for scale, name in _scales(scene, given).items():
        if not isclose(scale, right.scale):
            value = attend(given, replace(right, scale=scale))
            yield Hypothesis(
                SCALE, f"multiplying the scores by {name} instead of {right.scale:.4g}", value, null
            )
    for name in given.tables:
        if name != "recorded" and right.rotary != "none":
            value = attend(given, replace(right, table=name))
            yield Hypothesis(BASE, f"rotating q and k with base {float(name):g}", value, null)
    yield from _windows(scene, given, right, null)
    yield _measured_scale(scene, given, right, null)


def _applies(wrong: Attention, right: Attention) -> bool:
    """Whether a change says something about this model: without rotary tables, changes of the rotation do not."""
    return (
        right.rotary != "none"
        or replace(wrong, rotary="none", rotary_k="", shift_q=0, ahead_last=0) != right
    )


def _scales(scene: Scene, given: Operands) -> dict[float, str]:
    d, width = given.head_dim, given.q.shape[-1]
    hidden = int(scene.config.get("hidden_size") or width)
    return {
        1.0: "1", 1 / sqrt(d): "1/sqrt(head_dim)", 1 / d: "1/head_dim", 1 / sqrt(hidden): "1/sqrt(hidden_size)",
        1 / hidden: "1/hidden_size", sqrt(d): "sqrt(head_dim)", d**-0.25: "head_dim^(-1/4)",
        1 / sqrt(width // d): "1/sqrt(heads)",
    }  # fmt: skip


def _windows(
    scene: Scene, given: Operands, right: Attention, null: np.ndarray
) -> Iterator[Hypothesis]:
    window = _window(scene)
    tokens = given.mask.shape[-1]
    tried = {window, window - 1, window + 1, window // 2} if window else set()
    for span in sorted(w for w in tried if 0 < w < tokens and w != right.window):
        value = attend(given, replace(right, window=span, mask="causal and padding"))
        yield Hypothesis(
            "sliding window", f"attending to the last {span} tokens alone", value, null
        )


def _measured_scale(
    scene: Scene, given: Operands, right: Attention, null: np.ndarray
) -> Hypothesis:
    """The scale that explains the port's tensor best: Gauss-Newton on its logarithm."""

    def value(log: float) -> np.ndarray:
        return attend(given, replace(right, scale=float(np.exp(log))))

    keep = scene.valid & ~np.isnan(null)
    port, log = scene.wrong[keep], float(np.log(right.scale))
    left = norm(port - null[keep])
    for _ in range(_STEPS):
        slope = ((value(log + 1e-4) - value(log - 1e-4)) / 2e-4)[keep]
        square = float(slope @ slope)
        step = float(slope @ (port - value(log)[keep])) / square if square else 0.0
        step = float(np.clip(step, -0.7, 0.7))
        while abs(step) > 1e-9 and norm(port - value(log + step)[keep]) > left:
            step /= 4
        if abs(step) <= 1e-9:
            break
        log, left = log + step, norm(port - value(log + step)[keep])
    ratio = np.exp(log) / right.scale
    return Hypothesis(
        SCALE,
        f"multiplying the scores by {ratio:.4g} times their factor",
        value(log),
        null,
        fitted=True,
    )


def is_attention_value(scene: Scene) -> bool:
    """Whether the tensor is one of heads side by side, so that errors can be told by head."""
    names = roles(scene.target.key.path)
    inside = scene.target.key.site == "input" and "attention.out" in names
    made = scene.target.key.site == "output" and names & {
        "attention.q",
        "attention.k",
        "attention.v",
    }
    return is_float(scene.target) and (inside or bool(made))
