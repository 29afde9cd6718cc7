"""Weights that do nothing, seen through recorded activations: norms that multiply by one, attention that looks
everywhere alike.

Apart from `vacuity`, which words what follows from it: here are the formulas.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from firstdiff.traces.dtypes import unit_roundoff

if TYPE_CHECKING:
    from firstdiff.traces import Activation, Trace

_NEAR = 1.1
"""Sum of squared attention probabilities over that of uniform attention. Hugging Face's initialisation (std 0.02)
gives 1.00 to 1.02, trained models and discriminating random weights 2 and more."""
_LIKE_ONE = 2e-2
"""How far the rms of a neutral norm's output may lie from one: epsilon, and rows of padding, take it off."""
_CAUSAL = ("CausalLM", "LMHead", "ForCausal")


def attention_is_uniform(trace: Trace, real: np.ndarray) -> bool:
    """Whether every recorded attention looks at all visible tokens alike; False when none was recorded.

    ``real`` is bool[rows, tokens]. A row of probabilities p sums to one, so that sum(p**2) is 1/n for n equal ones
    and larger otherwise; the digest's rms and count give the sum over the whole tensor.
    """
    found = [a for a in trace.activations if _is_attention(a, real.shape)]
    if not found or real.shape[1] < 4:
        return False
    expected = _uniform_squares(real, _is_causal(trace))
    return all(_squares(a) < _NEAR * a.shape[1] * expected for a in found)


def _is_attention(activation: Activation, grid: tuple[int, ...]) -> bool:
    """Probabilities [rows, heads, tokens, tokens], each row of which sums to one."""
    rows, tokens = grid
    shape, digest = activation.shape, activation.digest
    if (
        len(shape) != 4
        or (shape[0], shape[2], shape[3]) != (rows, tokens, tokens)
        or digest is None
    ):
        return False
    if activation.key.site != "output" or not unit_roundoff(activation.dtype):
        return False
    return digest.min >= 0 and digest.max <= 1.01 and abs(digest.mean * tokens - 1) < 1e-2


def _squares(activation: Activation) -> float:
    digest = activation.digest
    assert digest is not None, "found by its digest"
    return digest.rms**2 * digest.count


def _uniform_squares(real: np.ndarray, causal: bool) -> float:
    """Sum over the queries of 1/(visible keys); a query that sees nothing is uniform over all keys."""
    visible = (
        np.cumsum(real, axis=1)
        if causal
        else np.repeat(real.sum(axis=1, keepdims=True), real.shape[1], 1)
    )
    return float((1 / np.where(visible > 0, visible, real.shape[1])).sum())


def _is_causal(trace: Trace) -> bool:
    name = str(trace.header.model.get("class", ""))
    return any(part in name for part in _CAUSAL)


def norms_are_neutral(trace: Trace) -> bool:
    """Whether the output of every recorded norm is its input, only normalised; False when there is no norm.

    Root mean square and layer norm alike leave rows of rms one. The digest tells most others apart; the elements
    of one row decide for the rest.
    """
    norms = [a for a in trace.activations if _is_norm(a)]
    return bool(norms) and all(_neutral(trace, a) for a in norms)


def _is_norm(activation: Activation) -> bool:
    return (
        activation.class_name.endswith("Norm")
        and activation.key.site == "output"
        and activation.key.leaf == ""
        and len(activation.shape) >= 2
        and unit_roundoff(activation.dtype) > 0
    )


def _neutral(trace: Trace, output: Activation) -> bool:
    digest = output.digest
    if digest is None or abs(digest.rms - 1) > _LIKE_ONE:
        return False
    key = output.key
    given = next(
        (
            a for a in trace.activations
            if a.key.site == "input" and a.shape == output.shape
            and (a.key.path, a.key.call, a.key.step) == (key.path, key.call, key.step)
        ),
        None,
    )  # fmt: skip
    if given is None or given.place is None or output.place is None:
        return False
    x, y = (
        trace.values(a).reshape(-1, a.shape[-1])[-1].astype(np.float64) for a in (given, output)
    )
    spread = 64 * unit_roundoff(output.dtype) + 1e-3
    return any(_proportional(centred, y, spread) for centred in (x, x - x.mean()))


def _proportional(x: np.ndarray, y: np.ndarray, spread: float) -> bool:
    """Whether ``y`` is ``x`` times one number, up to ``spread`` of its norm."""
    square = float(x @ x)
    if not square:
        return False
    return bool(np.linalg.norm(y - x * (float(x @ y) / square)) <= spread * np.linalg.norm(y))
