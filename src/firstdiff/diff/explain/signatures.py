"""What two tensors alone tell: the port's is a plain transform of the reference's, to rounding.

Tested after the hypotheses, the plainest transform first: a later one has more free numbers and contains earlier ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from firstdiff.diff.explain.hypothesis import Change, Hypothesis
from firstdiff.diff.explain.rounding import round_to
from firstdiff.diff.explain.scene import TINY, Scene
from firstdiff.diff.judge import FAIL

LEAST_ROWS = 8
"""Tokens needed where one number a channel is fitted."""
LEAST_CHANNELS = 16
"""Channels needed where one number a token is fitted."""
MOST_CHANNELS = 4096
"""Channels beyond which no permutation is searched."""
FEW = 0.02
"""Share of the channels up to which a kernel is damaged, not another one."""
SHIFTS = (1, -1, 2, -2)
CHANGES = (
    Change("low precision", "rounding the reference's tensor to bfloat16", precision=True),
    Change("low precision", "rounding the reference's tensor to float16", precision=True),
    Change("tokens shifted", "moving every token by some places"),
    Change("scale", "multiplying everything by one number"),
    Change("channel permutation", "permuting the channels"),
    Change("few channels", "taking a few channels as the port has them"),
    Change("constant offset", "adding one number to each channel"),
    Change("channel scale", "multiplying each channel by a number of its own"),
    Change("token scale", "multiplying each token by a number of its own"),
)
"""The tests, in order."""

Test = Callable[[Scene], Iterator[Hypothesis]]


def rounded(scene: Scene) -> Iterator[Hypothesis]:
    """The reference's own numbers, rounded."""
    for dtype in ("bfloat16", "float16"):
        words = f"rounding the reference's tensor to {dtype}"
        yield Hypothesis("low precision", words, round_to(scene.right, dtype), precision=True)


def shifted(scene: Scene) -> Iterator[Hypothesis]:
    """Every token moved along the sequence, of batch-first tensors of three axes."""
    shape = scene.right.shape
    if len(shape) != 3:
        return
    for by in SHIFTS:
        if shape[1] > 4 * abs(by):
            where = np.ones(shape, bool)
            where[:, :by] = by < 0
            where[:, by:] = where[:, by:] & (by > 0)
            words = f"moving every token {abs(by)} places {'later' if by > 0 else 'earlier'}"
            yield Hypothesis("tokens shifted", words, np.roll(scene.right, by, 1), where=where)


def scaled(scene: Scene) -> Iterator[Hypothesis]:
    """One number for all."""
    ours, theirs = scene.tokens
    factor = float((ours * theirs).sum() / max(float((ours * ours).sum()), TINY))
    if ours.size > LEAST_CHANNELS and factor:
        words = f"multiplying everything by {factor:.6g}{_known(scene, factor)}"
        yield Hypothesis("scale", words, scene.right * factor, fitted=True)


def _known(scene: Scene, factor: float) -> str:
    hidden = int(scene.config.get("hidden_size") or scene.right.shape[-1])
    heads = int(scene.config.get("num_attention_heads") or 0)
    dims = {"hidden_size": hidden} | ({"head_dim": hidden // heads} if heads else {})
    for name, size in dims.items():
        for value, words in (
            (size**0.5, f"sqrt({name})"),
            (size**-0.5, f"1/sqrt({name})"),
            (size, name),
            (1 / size, f"1/{name}"),
        ):
            if abs(factor / value - 1) < 1e-4:
                return f" = {words}"
    return ""


def permuted(scene: Scene) -> Iterator[Hypothesis]:
    """Channels in another order, each column matched by its largest cosine."""
    ours, theirs = scene.tokens
    if len(ours) < LEAST_ROWS or not LEAST_CHANNELS <= ours.shape[1] <= MOST_CHANNELS:
        return
    unit = [side / np.maximum(np.linalg.norm(side, axis=0), TINY) for side in (ours, theirs)]
    order = (unit[1].T @ unit[0]).argmax(axis=1)
    moved = int((order != np.arange(len(order))).sum())
    if moved and len(set(order.tolist())) == len(order):
        words = f"permuting the channels ({moved} of {len(order)} moved{_pattern(order)})"
        yield Hypothesis("channel permutation", words, scene.right[..., order])


def _pattern(order: np.ndarray) -> str:
    """What a permutation is, where it has a name."""
    size = len(order)
    for width in (w for w in (16, 32, 64, 80, 96, 128, 192, 256, 8, 4) if size % w == 0):
        blocks = order.reshape(-1, width)
        inside = blocks - blocks[:, :1] // width * width
        halves = np.arange(width).reshape(2, -1).T.reshape(-1)
        if all(np.array_equal(row, halves) for row in inside):
            return f": halves to even-odd pairs in heads of {width}"
        if all(np.array_equal(row, np.argsort(halves)) for row in inside):
            return f": even-odd pairs to halves in heads of {width}"
    for width in (w for w in (256, 192, 128, 96, 80, 64, 32, 16, 8) if size % w == 0 and size > w):
        blocks = order.reshape(-1, width)
        if (np.diff(blocks, axis=1) == 1).all() and (blocks[:, 0] % width == 0).all():
            return f": whole heads of {width}"
    return ""


def few_channels(scene: Scene) -> Iterator[Hypothesis]:
    """All channels right but a few, of which every one is beyond doubt wrong."""
    ours, theirs = scene.tokens
    if ours.shape[1] < LEAST_CHANNELS:
        return
    error, size = (np.sqrt((x**2).sum(0)) for x in (theirs - ours, ours))
    wrong = error > FAIL * scene.floor_of(1.0) * np.maximum(size, TINY)
    if 0 < wrong.sum() <= max(1, int(FEW * len(wrong))):
        value = scene.right.copy()
        value[..., wrong] = scene.wrong[..., wrong]
        names = ", ".join(str(c) for c in np.flatnonzero(wrong)[:6])
        words = f"taking {int(wrong.sum())} of {len(wrong)} channels ({names}) as the port has them"
        yield Hypothesis("few channels", words, value, fitted=True)


def offset(scene: Scene) -> Iterator[Hypothesis]:
    """One number more in each channel."""
    ours, theirs = scene.tokens
    if len(ours) >= LEAST_ROWS:
        constant = (theirs - ours).mean(axis=0)
        yield Hypothesis(
            "constant offset",
            "adding one number to each channel",
            scene.right + constant,
            fitted=True,
        )


def by_channel(scene: Scene) -> Iterator[Hypothesis]:
    """One factor a channel."""
    ours, theirs = scene.tokens
    if len(ours) >= LEAST_ROWS:
        factor = (ours * theirs).sum(0) / np.maximum((ours * ours).sum(0), TINY)
        yield Hypothesis(
            "channel scale",
            "multiplying each channel by a number of its own",
            scene.right * factor,
            fitted=True,
        )


def by_token(scene: Scene) -> Iterator[Hypothesis]:
    """One factor a token."""
    ours, theirs = scene.right, scene.wrong
    if ours.shape[-1] >= LEAST_CHANNELS:
        clean = np.isfinite(ours) & np.isfinite(theirs)
        a, b = np.where(clean, ours, 0), np.where(clean, theirs, 0)
        factor = (a * b).sum(-1, keepdims=True) / np.maximum((a * a).sum(-1, keepdims=True), TINY)
        yield Hypothesis(
            "token scale",
            "multiplying each token by a number of its own",
            ours * factor,
            fitted=True,
        )


TIERS: tuple[tuple[Test, ...], ...] = (
    (rounded, shifted, scaled, permuted),
    (few_channels,),
    (offset, by_channel, by_token),
)
"""Tests of one tier compete; a tier is tried when the one before it found nothing."""
