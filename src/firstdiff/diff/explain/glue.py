"""Code between modules: sums (residual streams), products (gates) and values passed on, with the wrong operands.

Nothing here rests on names. The operands of the right computation are found among the tensors recorded shortly before:
two whose sum or product is the reference's tensor to rounding, or one that is the tensor itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from firstdiff.diff.explain.activations import FUNCTIONS, Function
from firstdiff.diff.explain.hypothesis import Hypothesis
from firstdiff.diff.explain.scene import TINY, Scene, is_float
from firstdiff.diff.explain.summands import summed
from firstdiff.diff.judge import WARN

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from firstdiff.traces.schema import Activation

MOST = 14
"""Distinct tensors before the wrong one among which operands are searched."""
FEW, ROUGHLY = 4096, 2.0**-10
"""Elements at which a function is tried first, and the share of squares that it may miss there."""
CAPS = (30.0, 50.0)
"""Soft caps of published models (Gemma 2), beside the configured one."""


@dataclass(frozen=True)
class Operand:
    """A tensor that may have been used."""

    activation: Activation
    """Where it was recorded."""
    name: str
    """What people call it."""
    value: np.ndarray
    """The port's numbers."""


def glue(scene: Scene) -> Iterator[Hypothesis]:
    """Hypotheses for a tensor made between modules."""
    if scene.target.key.site == "output" and _is_leaf(scene):
        return
    found = operands(scene)
    carried = _carried(scene, found)
    if carried is not None:
        yield from _passed(_unexplained(scene, found, carried), carried)
        yield from _activated(scene, found, carried)
        return
    for make, combine in ((_sums, np.add), (_products, np.multiply)):
        pair = _pair(scene, found, combine)
        if pair is not None:
            yield from make(scene, found, *pair)
            return
    yield from _functions(scene, found)


def _is_leaf(scene: Scene) -> bool:
    """Whether the module has no children of its own in the reference."""
    prefix = f"{scene.target.key.path}." if scene.target.key.path else ""
    return not any(
        a.key.path.startswith(prefix) and a.key.path != scene.target.key.path
        for a in scene.before()
    )


def operands(scene: Scene) -> list[Operand]:
    """Distinct tensors of the wrong one's shape, the latest first."""
    found: dict[object, Operand] = {}
    for activation in scene.before():
        if activation.shape != scene.target.shape or not is_float(activation):
            continue
        identity = activation.digest.checksum if activation.digest is not None else activation.order
        name = f"{activation.key.path or 'the model'} {activation.key.site}"
        if identity in found and activation.key.site == "output":
            found[identity] = Operand(
                activation, f"the result of {activation.key.path}", found[identity].value
            )
        if identity not in found and len(found) < MOST:
            name = (
                f"the result of {activation.key.path}"
                if activation.key.site == "output"
                else f"the input of {activation.key.path}"
            )
            found[identity] = Operand(activation, name, scene.given(activation))
    return list(found.values())


def _carried(scene: Scene, found: list[Operand]) -> Operand | None:
    digest = scene.target.digest
    for operand in found:
        other = operand.activation.digest
        if digest is not None and other is not None and digest.checksum == other.checksum:
            return operand
    return None


def _pair(scene: Scene, found: list[Operand], combine: np.ufunc) -> tuple[Operand, Operand] | None:
    """(earlier, later) operands whose sum or product is the reference's tensor."""
    values = {id(operand): scene.recorded(operand.activation) for operand in found}
    for later, earlier in combinations(found, 2):
        if scene.reproduces(combine(values[id(earlier)], values[id(later)])):
            return earlier, later
    return None


def _unexplained(scene: Scene, found: list[Operand], right: Operand) -> list[Operand]:
    """``found`` without what others take for the same mistake: a summand, or what a function is applied to."""
    paths = {part.path for part in summed(scene)}
    return [
        x for x in found
        if x.activation.key.path not in paths
        and (x is right or _function(scene, x.value, right.value) is None)
    ]  # fmt: skip


def _passed(found: list[Operand], right: Operand) -> Iterator[Hypothesis]:
    """The right value was made; another one is passed on."""
    null = right.value
    for other in found:
        if other is not right:
            yield Hypothesis(
                "module skipped",
                f"passing on {other.name} instead of {right.name}",
                other.value,
                null,
            )
    if null.ndim == 3 and null.shape[1] > 1:
        for by, word in ((1, "earlier"), (-1, "later")):
            yield Hypothesis(
                "tokens shifted",
                f"passing on each token one place {word}",
                np.roll(null, by, 1),
                null,
            )


def _activated(scene: Scene, found: list[Operand], right: Operand) -> Iterator[Hypothesis]:
    """The right value is f(x) for a recorded x: a port whose function is no module of its own has another f."""
    for x in found:
        name = _function(scene, x.value, right.value) if x is not right else None
        if name is None:
            continue
        for wrong, function in FUNCTIONS.items():
            if wrong != name:
                words = f"applying {wrong} instead of {name}"
                yield Hypothesis("activation function", words, function(x.value), right.value)
        return


def _functions(scene: Scene, found: list[Operand]) -> Iterator[Hypothesis]:
    """The reference's tensor is f(x) for a recorded x: functions that are modules on neither side, and soft caps."""
    for x in found:
        known = scene.recorded(x.activation)
        misses = {name: scene.misses(f(known)) for name, f in _near(scene, known).items()}
        name = min(misses, key=lambda name: misses[name], default=None)
        if name is None or misses[name] >= WARN:
            continue
        null = _elementwise(scene)[name](x.value)
        for wrong, function in _elementwise(scene).items():
            if wrong != name:
                cause = "score cap" if "cap" in f"{name} {wrong}" else "activation function"
                words = f"applying {wrong} instead of {name}"
                yield Hypothesis(cause, words, function(x.value), null)
        return


def _elementwise(scene: Scene) -> dict[str, Function]:
    """Functions by name, with the soft caps of the configuration and others that are common."""
    configured = scene.config.get("final_logit_softcapping"), scene.config.get("logit_cap")
    caps = dict.fromkeys(float(cap) for cap in (*configured, *CAPS) if cap)
    return FUNCTIONS | {f"a soft cap of {cap:g}": _cap(cap) for cap in caps}


def _cap(cap: float) -> Function:
    return lambda x: np.asarray(cap * np.tanh(x / cap))


def _near(scene: Scene, x: np.ndarray) -> dict[str, Function]:
    """Functions that roughly make the reference's tensor of ``x``, seen at a few elements: some are slow."""
    step = max(1, x.size // FEW)
    some, y = x.reshape(-1)[::step], scene.right.reshape(-1)[::step]
    near = {}
    with np.errstate(over="ignore", invalid="ignore"):
        for name, function in _elementwise(scene).items():
            left = np.nanmean((function(some) - y) ** 2)
            if name != "no function" and left < ROUGHLY * np.nanmean(y**2):
                near[name] = function
    return near


def _sums(_: Scene, found: list[Operand], stream: Operand, branch: Operand) -> Iterator[Hypothesis]:
    a, b = stream.value, branch.value
    null, cause = a + b, "residual connection"
    yield Hypothesis(cause, f"leaving out {stream.name}", b, null)
    yield Hypothesis(cause, f"leaving out {branch.name}", a, null)
    yield Hypothesis(cause, f"adding {branch.name} twice", a + 2 * b, null)
    yield Hypothesis(cause, f"adding {stream.name} twice", 2 * a + b, null)
    yield Hypothesis(cause, f"subtracting {branch.name}", a - b, null)
    for other in found:
        if other is not stream and other is not branch:
            yield Hypothesis(
                cause, f"adding {other.name} instead of {stream.name}", other.value + b, null
            )
            yield Hypothesis(
                cause, f"adding {other.name} instead of {branch.name}", a + other.value, null
            )


def _products(
    scene: Scene, found: list[Operand], one: Operand, other: Operand
) -> Iterator[Hypothesis]:
    a, b = one.value, other.value
    null, cause = a * b, "gate"
    yield Hypothesis(cause, f"leaving out {one.name}", b, null)
    yield Hypothesis(cause, f"leaving out {other.name}", a, null)
    yield Hypothesis(cause, "adding instead of multiplying", a + b, null)
    for third in found:
        if third is one or third is other:
            continue
        yield Hypothesis(
            cause, f"multiplying by {third.name} instead of {one.name}", third.value * b, null
        )
        yield Hypothesis(
            cause, f"multiplying by {third.name} instead of {other.name}", a * third.value, null
        )
    yield from _gates(scene, found, one, other, null)


def _gates(
    scene: Scene, found: list[Operand], one: Operand, other: Operand, null: np.ndarray
) -> Iterator[Hypothesis]:
    """The activation function of a gate: another one, or on the wrong branch.

    One operand is f(gate) for a recorded gate and a function f of the table; the other one is not.
    """
    for active, plain in ((one, other), (other, one)):
        for gate in found:
            name = _function(scene, gate.value, active.value) if gate is not active else None
            if name is None:
                continue
            swapped = f"applying {name} to {plain.name} instead of {gate.name}"
            yield Hypothesis(
                "activation on the wrong branch",
                swapped,
                gate.value * FUNCTIONS[name](plain.value),
                null,
            )
            for wrong, function in FUNCTIONS.items():
                if wrong != name:
                    words = f"applying {wrong} instead of {name}"
                    yield Hypothesis(
                        "activation function", words, function(gate.value) * plain.value, null
                    )
            return


def _function(scene: Scene, x: np.ndarray, y: np.ndarray) -> str | None:
    """The function of the table that comes nearest to making ``y`` of ``x``, if it nearly does.

    The nearest, not the first: both forms of GELU are near each other.
    """
    assert scene.row.floor is not None, "a scene is made for a row with a floor"
    limit = max(2.0**-20, (WARN * scene.row.floor.unit) ** 2)
    step = max(1, x.size // FEW)
    some = _misses(x.reshape(-1)[::step], y.reshape(-1)[::step], tuple(FUNCTIONS))
    near = [name for name, miss in some.items() if miss < ROUGHLY]
    misses = _misses(x, y, near)
    nearest = min(misses, key=lambda name: misses[name], default=None)
    return nearest if nearest is not None and misses[nearest] < limit else None


def _misses(x: np.ndarray, y: np.ndarray, names: Iterable[str]) -> dict[str, float]:
    """By how much of ``y``'s square each function of ``x`` misses it."""
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        return {
            name: float(np.nan_to_num(np.nanmean((FUNCTIONS[name](x) - y) ** 2), nan=np.inf))
            / max(float(np.nanmean(y**2)), TINY)
            for name in names
            if name != "no function"
        }
