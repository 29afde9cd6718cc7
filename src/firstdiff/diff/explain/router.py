"""Routers of mixtures of experts: the weights of the chosen experts, made of the recorded logits in another way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from firstdiff.diff.explain.hypothesis import Change, Hypothesis
from firstdiff.diff.explain.rounding import round_to
from firstdiff.diff.explain.scene import TINY, Scene, is_float

if TYPE_CHECKING:
    from firstdiff.traces.schema import Activation

MOST_CHOSEN, MOST_EXPERTS, NEAR = 16, 1024, 24
"""Experts chosen, experts altogether, and tensors before the wrong one among which the logits are looked for."""

Weighing = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Logits [..., experts] and the chosen experts [..., k] -> weights [..., k]."""


def softmax(logits: np.ndarray) -> np.ndarray:
    """Over the last axis."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


def _of(scores: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    return np.take_along_axis(scores, chosen, axis=-1)


def _shared(weights: np.ndarray) -> np.ndarray:
    return np.asarray(weights / np.maximum(weights.sum(axis=-1, keepdims=True), TINY))


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return np.asarray(0.5 * (1 + np.tanh(0.5 * logits)))


def _narrow(logits: np.ndarray, chosen: np.ndarray, dtype: str, *, wide: bool) -> np.ndarray:
    """Rounded after every step, sums accumulated wide; ``wide`` leaves out the last one, as compilers do."""
    rounded = round_to(logits, dtype)
    powers = round_to(np.exp(round_to(rounded - rounded.max(-1, keepdims=True), dtype)), dtype)
    shares = round_to(powers / round_to(powers.sum(-1, keepdims=True), dtype), dtype)
    some = _of(shares, chosen)
    weights = np.asarray(some / round_to(some.sum(-1, keepdims=True), dtype))
    return weights if wide else round_to(weights, dtype)


WEIGHINGS: dict[str, Weighing] = {
    "a softmax over the chosen experts": lambda x, chosen: softmax(_of(x, chosen)),
    "a softmax over all experts, not divided by the sum of the chosen": lambda x, chosen: _of(
        softmax(x), chosen
    ),
    "sigmoids": lambda x, chosen: _of(_sigmoid(x), chosen),
    "sigmoids divided by their sum": lambda x, chosen: _shared(_of(_sigmoid(x), chosen)),
    "a softmax of the chosen experts' shares": lambda x, chosen: softmax(_of(softmax(x), chosen)),
    "a softmax in the experts' opposite order": lambda x, chosen: softmax(_of(x, chosen))[
        ..., ::-1
    ],
    "equal shares": lambda _, chosen: np.full(chosen.shape, 1 / chosen.shape[-1]),
    "ones": lambda _, chosen: np.ones(chosen.shape),
    "the logits": _of,
}
"""How the chosen experts are weighed. A row is a way more; the reference's own is the one that reproduces it."""
CHANGES = (
    *(Change("router weights", f"weighing the chosen experts by {name}") for name in WEIGHINGS),
    Change("router weights", "leaving out the factor of the configuration"),
    Change("low precision", "rounding the softmax to bfloat16", precision=True),
    Change("low precision", "rounding the softmax to float16", precision=True),
)
"""What is tried."""


def router(scene: Scene) -> Iterator[Hypothesis]:
    """Hypotheses for the weights of the chosen experts."""
    logits = _logits(scene)
    if logits is None:
        return
    mine, theirs = scene.recorded(logits), scene.given(logits)
    factor = float(scene.config.get("routed_scaling_factor") or 1.0)
    count = scene.target.shape[-1]
    for scale in dict.fromkeys((factor, 1.0)):
        for name, weigh in WEIGHINGS.items():
            if scene.reproduces(scale * weigh(mine, _chosen(mine, count))):
                yield from _wrong(theirs, name, scale, _chosen(theirs, count))
                return


def _logits(scene: Scene) -> Activation | None:
    """The last tensor [..., experts] before the weights [..., k]; None where they are no weights."""
    target = scene.target
    if len(target.shape) < 2 or not 1 <= target.shape[-1] <= MOST_CHOSEN:
        return None
    for near, activation in enumerate(scene.before()):
        if near == NEAR:
            return None
        wider = (
            is_float(activation)
            and activation.shape[:-1] == target.shape[:-1]
            and target.shape[-1] < activation.shape[-1] <= MOST_EXPERTS
        )
        if wider and activation.key.site == "output" and "gate" in _words(activation):
            return activation
    return None


def _words(activation: Activation) -> str:
    """Names of a router: `gate`, `router` is read as one."""
    return activation.key.path.rpartition(".")[2].lower().replace("router", "gate")


def _chosen(logits: np.ndarray, count: int) -> np.ndarray:
    return np.argsort(-logits, axis=-1, kind="stable")[..., :count]


def _wrong(
    logits: np.ndarray, right: str, scale: float, chosen: np.ndarray
) -> Iterator[Hypothesis]:
    null = scale * WEIGHINGS[right](logits, chosen)
    for name, weigh in WEIGHINGS.items():
        if name != right:
            words = f"weighing the chosen experts by {name} instead of {right}"
            yield Hypothesis("router weights", words, scale * weigh(logits, chosen), null)
    if scale != 1.0:
        yield Hypothesis("router weights", f"leaving out the factor {scale:g}", null / scale, null)
    if right.startswith("a softmax over the chosen"):
        for dtype, wide in product(("bfloat16", "float16"), (False, True)):
            value = scale * _narrow(logits, chosen, dtype, wide=wide)
            words = f"rounding the softmax to {dtype}"
            yield Hypothesis("low precision", words, value, null, precision=True)
