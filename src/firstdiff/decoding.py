"""Decoding token by token: what each step is given, and which token comes next.

Step 0 runs the whole prompt; step n runs the n-th token after it. Apart from the two frameworks, whose runs are
in `decoders.py`: here are arrays of numpy alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from firstdiff.traces.errors import OptionError, SubjectError

if TYPE_CHECKING:
    from firstdiff.traces import Header, Trace

COLUMNS = ("input_ids", "attention_mask", "position_ids")
"""Inputs that have a column for each token."""


@dataclass(frozen=True)
class Decoding:
    """How far to decode, and which way."""

    steps: int
    """Tokens that are run after the prompt, one by one."""
    tokens: np.ndarray | None = None
    """int64[steps, batch]: the tokens to run. None: in each row the one with the largest logit (greedy)."""
    keep_cache: bool = False
    """Whether the cache that the last step leaves is recorded too; for subjects with a step of their own, in JAX."""

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise OptionError(f"--steps {self.steps}: a number of tokens, 1 or more")
        if self.tokens is not None and len(self.tokens) < self.steps:
            raise OptionError(
                f"--steps {self.steps}: only {len(self.tokens)} tokens are given; the reference was captured with "
                f"--steps {len(self.tokens)}"
            )


@dataclass(frozen=True)
class Tokens:
    """Every token so far."""

    ids: np.ndarray
    """int64[batch, tokens]."""
    mask: np.ndarray | None = None
    """int64[batch, tokens], 0 at padding; None where the inputs hold none."""
    positions: np.ndarray | None = None
    """int64[1 or batch, tokens]; None where the inputs hold none."""

    @classmethod
    def of(cls, inputs: Mapping[str, Any]) -> Tokens:
        """The prompt in ``inputs`` (numpy arrays). Raises OptionError where it is none that can be continued."""
        ids = inputs.get("input_ids")
        if ids is None or ids.ndim != 2:
            raise OptionError(
                "--steps: decoding goes on from input_ids[batch, tokens]; there are none"
            )
        mask, positions = (
            found
            if found is not None and found.ndim == 2 and found.shape[1] == ids.shape[1]
            else None
            for found in (inputs.get("attention_mask"), inputs.get("position_ids"))
        )
        if mask is not None and not (mask[:, -1] > 0).all():
            raise OptionError(
                "--steps: a row of the prompt ends with padding, so no token can follow; pad on the left"
            )
        return cls(ids, mask, positions)

    @property
    def length(self) -> int:
        """Tokens in each row."""
        return int(self.ids.shape[1])

    def extended(self, chosen: np.ndarray) -> Tokens:
        """With one more token a row, int64[batch]."""
        rows = len(self.ids)
        ids = np.concatenate([self.ids, chosen.reshape(rows, 1).astype(self.ids.dtype)], axis=1)
        mask = self.mask
        if mask is not None:
            mask = np.concatenate([mask, np.ones((rows, 1), mask.dtype)], axis=1)
        positions = self.positions
        if positions is not None:
            positions = np.concatenate([positions, positions[:, -1:] + 1], axis=1)
        return Tokens(ids, mask, positions)

    def complete(self) -> Tokens:
        """With a mask and positions, made from what there is."""
        mask = np.ones_like(self.ids) if self.mask is None else self.mask
        positions = positions_of(mask) if self.positions is None else self.positions
        return Tokens(self.ids, mask, positions)

    def columns(self, start: int, *, capacity: int | None = None) -> dict[str, np.ndarray]:
        """Inputs of a step that runs the tokens from ``start`` on: of the mask all tokens so far.

        ``capacity`` pads the mask with zeros to the length of a cache.
        """
        found = {"input_ids": self.ids[:, start:]}
        if self.mask is not None:
            beyond = 0 if capacity is None else capacity - self.length
            found["attention_mask"] = np.pad(self.mask, [(0, 0), (0, beyond)])
        if self.positions is not None:
            found["position_ids"] = self.positions[:, start:]
        return found


class Steps:
    """The inputs of one step after another, each when the token before it is known."""

    def __init__(
        self, prompt: Tokens, decoding: Decoding, *, cached: bool, capacity: int | None = None
    ) -> None:
        """``cached``: a step is given its own tokens alone, otherwise all so far."""
        self.fed: list[np.ndarray] = []
        """int64[batch]: the tokens run so far, the prompt left out."""
        self._tokens, self._decoding = prompt, decoding
        self._cached, self._capacity = cached, capacity
        self._start = 0

    @property
    def length(self) -> int:
        """Tokens up to the present step."""
        return self._tokens.length

    @property
    def step(self) -> int:
        """Number of the present step."""
        return len(self.fed)

    def given(self) -> dict[str, np.ndarray]:
        """Inputs of the present step."""
        return self._tokens.columns(self._start if self._cached else 0, capacity=self._capacity)

    def take(self, logits: np.ndarray) -> bool:
        """Go on to the next step after logits [batch, vocabulary]; False when there is none."""
        if self.step >= self._decoding.steps:
            return False
        forced = self._decoding.tokens
        chosen = logits.argmax(axis=-1) if forced is None else forced[self.step]
        self._start = self._tokens.length
        self._tokens = self._tokens.extended(np.asarray(chosen))
        self.fed.append(np.asarray(chosen, np.int64))
        return True


def positions_of(mask: np.ndarray) -> np.ndarray:
    """Positions that do not count padding, as Hugging Face's `generate` makes them: 0 at padding."""
    found: np.ndarray = np.maximum(np.cumsum(mask > 0, axis=-1) - 1, 0)
    return found


def last_logits(output: Any) -> Any:
    """Logits [batch, vocabulary] of the last position in what a model returned, of its own framework.

    Raises SubjectError where the output holds none.
    """
    found = getattr(output, "logits", None)
    if found is None and isinstance(output, Mapping):
        found = output.get("logits")
    if found is None and isinstance(output, Sequence) and output:
        found = output[0]
    found = output if found is None else found
    if getattr(found, "ndim", 0) == 3:
        return found[:, -1]
    if getattr(found, "ndim", 0) == 2:
        return found
    raise SubjectError(
        "--steps: the model returns no logits[batch, tokens, vocabulary], from which the next token could be chosen"
    )


def described(header: Header, decoding: Decoding, fed: Sequence[np.ndarray]) -> Header:
    """``header`` that says which tokens were run."""
    tokens = [[int(token) for token in row] for row in fed]
    chosen = "greedy" if decoding.tokens is None else "forced"
    found = {"steps": len(tokens), "tokens": tokens, "chosen": chosen}
    return replace(header, extra={**header.extra, "decoding": found})


def decoding_of(trace: Trace, steps: int | None = None) -> Decoding | None:
    """The decoding that ``trace`` records, its tokens forced; ``steps`` takes the first ones of it.

    Raises OptionError where it records none, or fewer than ``steps``.
    """
    found = trace.header.extra.get("decoding")
    if not found:
        if steps:
            raise OptionError(
                f"--steps {steps}: {trace.path} records no decoding; capture the reference with --steps {steps}"
            )
        return None
    count = int(found["steps"]) if steps is None else steps
    return Decoding(count, np.array(found["tokens"], np.int64)) if count else None
