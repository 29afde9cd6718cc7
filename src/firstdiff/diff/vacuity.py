"""What an input and its weights cannot reveal, however well two traces agree on it.

Apart from the judgement: this looks at the reference alone. Token ids and masks are read in full, weights as the
capture counted them, activations by their digests; a few rows of elements where a digest leaves a doubt.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from firstdiff.diff.limits import Limits, limits_of
from firstdiff.diff.uniformity import attention_is_uniform, norms_are_neutral
from firstdiff.traces.padding import padding_mask

if TYPE_CHECKING:
    from firstdiff.traces import Trace

_IDS = ("input_ids", "tokens", "decoder_input_ids")


@dataclass(frozen=True)
class Vacuity:
    """One class of mistakes that a comparison on this input cannot show."""

    kind: str
    """`one token`, `equal tokens`, `one row`, `no padding`, `equal padding`, `sliding window`, `rope scaling`,
    `zero biases`, `unit norms` or `uniform attention`."""
    sentence: str
    """What cannot be seen, and what would show it."""


def vacuities(reference: Trace) -> tuple[Vacuity, ...]:
    """Everything that ``reference``, by its inputs and its weights, cannot reveal about a port."""
    view = _View(reference)
    found = [*_of_length(view), *_of_rows(view), *_of_weights(view)]
    return tuple(Vacuity(kind, sentence) for kind, sentence in found)


class _View:
    """The facts of a reference that the checks ask for."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace

    @cached_property
    def ids(self) -> np.ndarray | None:
        """Token ids [rows, tokens], or None for a model of something else."""
        for name in _IDS:
            given = self.trace.inputs.get(name)
            if given is not None and len(given.shape) == 2:
                return self.trace.input_values(name)
        return None

    @cached_property
    def real(self) -> np.ndarray:
        """bool like `ids`: True at real tokens."""
        assert self.ids is not None, "asked for a model of text"
        masks = {n: self.trace.input_values(n) for n in self.trace.inputs if n == "attention_mask"}
        mask = padding_mask(masks)
        fits = mask is not None and mask.shape == self.ids.shape
        return mask if fits and mask is not None else np.ones(self.ids.shape, bool)

    @cached_property
    def rows(self) -> int | None:
        """Rows of the batch; None when no input has any."""
        shapes = [given.shape for given in self.trace.inputs.values() if given.shape]
        return shapes[0][0] if shapes else None

    @cached_property
    def limits(self) -> Limits:
        return limits_of(self.trace.header.model.get("config") or {})

    @cached_property
    def weights(self) -> dict[str, Any]:
        """Numbers of biases and norm scales, and how many are neutral, where the capture counted them."""
        found = self.trace.header.extra.get("neutral")
        return found if isinstance(found, dict) else {}

    @property
    def remedy(self) -> str:
        """The command that makes inputs which reveal more."""
        subject = self.trace.header.subject
        return (
            f"firstdiff prompt {subject if subject.startswith('hf:') else 'SUBJECT'} -o inputs.npz"
        )


def _of_length(view: _View) -> Iterator[tuple[str, str]]:
    if view.ids is None:
        return
    longest = int(view.real.sum(axis=1).max())
    values = view.ids[view.real]
    if longest <= 1:
        yield (
            "one token",
            "one token: this input cannot show an error of the rotary embedding, the positions, the causal mask or "
            f"the softmax; use 2 rows of 48 tokens: {view.remedy}",
        )
        return
    if values.size and (values == values[0]).all():
        yield (
            "equal tokens",
            "all tokens are equal: this input cannot show which token attention looks at, nor most rows of the "
            f"embedding; use random or real text: {view.remedy}",
        )
    if view.limits.window and longest <= view.limits.window:
        yield (
            "sliding window",
            f"{longest} tokens lie within the sliding window of {view.limits.window}: this input cannot show a window "
            f"that is missing or of another size; use more than {view.limits.window} tokens: {view.remedy}",
        )
    if view.limits.rope and longest <= view.limits.rope:
        yield (
            "rope scaling",
            f"{longest} tokens lie within the original context of {view.limits.rope}: this input cannot show an error "
            f"of the RoPE scaling, which acts beyond it; use more than {view.limits.rope} tokens: {view.remedy}",
        )


def _of_rows(view: _View) -> Iterator[tuple[str, str]]:
    if view.rows == 1:
        yield (
            "one row",
            "one batch row: this input cannot show an error that mixes rows (a transposed batch axis, a mask of the "
            f"wrong row); use 2 rows: {view.remedy}",
        )
    if view.ids is None or view.ids.shape[1] <= 1:
        return
    if view.real.all():
        yield (
            "no padding",
            "no padding: this input cannot show an attention mask that is ignored or inverted; pad the rows "
            f"unequally: {view.remedy}",
        )
    elif view.rows != 1 and (view.real == view.real[0]).all():
        yield (
            "equal padding",
            "all rows are padded alike: this input cannot show a mask that is taken from the wrong row; pad them "
            f"unequally: {view.remedy}",
        )


def _of_weights(view: _View) -> Iterator[tuple[str, str]]:
    biases, zero = view.weights.get("biases", 0), view.weights.get("zero_biases", 0)
    if biases and biases == zero:
        yield (
            "zero biases",
            f"all {biases} biases are zero: these weights cannot show a bias that is missing or not loaded; use "
            "trained weights, or random ones with biases of std 0.1 to 0.5",
        )
    if _unit_norms(view):
        yield (
            "unit norms",
            "every norm multiplies by one: these weights cannot show a norm scale that is missing, swapped or not "
            "loaded; use trained weights, or scales of 1 +- 0.3",
        )
    if view.ids is not None and attention_is_uniform(view.trace, view.real):
        yield (
            "uniform attention",
            "attention is nearly uniform in every layer: with these weights an error of the rotary embedding, the "
            "attention scale or the head order looks like rounding; use trained weights, or queries and keys "
            "of std 0.25",
        )


def _unit_norms(view: _View) -> bool:
    scales = view.weights.get("norms")
    if scales:
        return bool(scales == view.weights.get("unit_norms"))
    return norms_are_neutral(view.trace)
