"""`prompt`: model inputs that reveal what a careless prompt hides, as a `.npz` for `capture --inputs`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from firstdiff.diff.limits import Limits, limits_of
from firstdiff.inputs import Inputs, host_inputs
from firstdiff.models.loading import describe
from firstdiff.recording import as_subject, is_torch_module
from firstdiff.traces.dtypes import widen
from firstdiff.traces.errors import OptionError

if TYPE_CHECKING:
    from firstdiff.models.subject import Subject

LONGEST = 4096
"""Tokens of a prompt at most, unless more are asked for: the memory of attention grows with their square."""
_LEAST = 48
_PADDING = (2, 9)


@dataclass(frozen=True)
class Prompt:
    """Inputs that were made."""

    inputs: Inputs
    """By keyword of the model's call."""
    path: Path | None = None
    """Where they were written."""
    notes: tuple[str, ...] = ()
    """What they still cannot reveal, and where they come from."""

    def lines(self) -> list[str]:
        """What the command line prints."""
        shapes = [f"{name} {t.dtype}{list(t.value.shape)}" for name, t in self.inputs.items()]
        head = " · ".join([*([str(self.path)] if self.path else []), *shapes])
        return [head, *(f"note: {note}" for note in self.notes)]


def prompt(
    subject: Any,
    output: str | Path | None = None,
    *,
    text: str | None = None,
    tokens: int | None = None,
    longest: int = LONGEST,
    seed: int = 0,
    force: bool = False,
) -> Prompt:
    """Inputs of two rows, unequally padded, of at least 48 tokens, beyond the sliding window and the RoPE threshold.

    Args:
        subject: what `capture` takes; of a JAX port, its `config` says the vocabulary.
        output: the `.npz` to write.
        text: encoded by the tokenizer beside `hf:DIR`, and repeated to the length; otherwise ids are drawn.
        tokens: the length; None takes what the configuration asks for.
        longest: the length at most; what would need more is said in the notes.
        seed: of the drawn ids.
        force: overwrite ``output``.

    Raises:
        SubjectError: the subject cannot be loaded.
        OptionError: it is no model whose inputs are known, has no tokenizer for ``text``, or ``output`` exists.
    """
    path = None if output is None else Path(output)
    if path is not None and path.exists() and not force:
        raise OptionError(
            f"{path}: exists already; choose another name or overwrite it with --force"
        )
    given = as_subject(subject)
    limits = limits_of(_config(given))
    length, notes = _length(limits, tokens, longest)
    inputs = host_inputs(_drawn(given, length, seed))
    ids = inputs.get("input_ids")
    if ids is not None and ids.value.shape[1] < length:
        notes.append(
            f"the model has {limits.positions} positions, so the prompt is {ids.value.shape[1]} tokens long"
        )
    if text is not None:
        inputs, more = _spoken(given, inputs, text)
        notes += more
    if path is not None:
        _write(path, inputs)
    return Prompt(inputs, path, tuple(notes))


def _config(subject: Subject) -> dict[str, Any]:
    if subject.config:
        return dict(subject.config)
    to_dict = getattr(getattr(subject.model, "config", None), "to_dict", None)
    return dict(to_dict()) if callable(to_dict) else {}


def _length(limits: Limits, tokens: int | None, longest: int) -> tuple[int, list[str]]:
    """Tokens of a row, and notes on the thresholds that it does not exceed."""
    wanted = max(_LEAST, limits.enough + max(_PADDING)) if tokens is None else tokens
    if wanted < 2:
        raise OptionError(f"--tokens {wanted}: one token shows next to nothing; ask for 48")
    length = min(wanted, longest)
    real = length - min(_PADDING)
    names = {"sliding window": limits.window, "original context of the RoPE scaling": limits.rope}
    notes = [
        f"{length} tokens do not exceed the {name} of {limit}: --longest {limit + 32} would, at the cost of memory"
        for name, limit in names.items()
        if limit and real <= limit
    ]
    return length, notes


def _drawn(subject: Subject, tokens: int, seed: int) -> dict[str, Any]:
    """Inputs by what is known of the model: a transformers model, a vocabulary, or the subject's own inputs."""
    if is_torch_module(subject.model) and hasattr(subject.model, "main_input_name"):
        from firstdiff.models.default_inputs import default_inputs

        found = default_inputs(subject.model, seed, tokens)
        if found is not None:
            return found
    vocabulary = _config(subject).get("vocab_size")
    if isinstance(vocabulary, int) and vocabulary > 1:
        return _text(vocabulary, tokens, seed)
    raise OptionError(
        f"{subject.name or 'the subject'}: its kind of input is not known; for a model of text give its vocabulary, "
        "Subject(config={'vocab_size': ...})"
    )


def _text(vocabulary: int, tokens: int, seed: int) -> dict[str, np.ndarray]:
    """Token ids and mask, int64 (2, tokens), padded on the left."""
    ids = np.random.default_rng(seed).integers(1, vocabulary, (len(_PADDING), tokens))
    padding = np.minimum(_PADDING, tokens // 4)
    real = np.arange(tokens) >= padding[:, None]
    return {"input_ids": np.where(real, ids, 0), "attention_mask": real.astype(np.int64)}


def _spoken(subject: Subject, inputs: Inputs, text: str) -> tuple[Inputs, list[str]]:
    """``inputs`` with the drawn ids replaced by those of ``text``, each row beginning elsewhere in it."""
    if not subject.name.startswith("hf:") or "input_ids" not in inputs:
        raise OptionError(f"--text: {subject.name or 'the subject'} has no tokenizer; leave it out")
    from firstdiff.models.hub import encode

    spoken = encode(subject.name, [text])["input_ids"][0]
    if spoken.size < 2:
        raise OptionError("--text: fewer than two tokens; give a sentence")
    drawn = inputs["input_ids"]
    mask = widen(*inputs["attention_mask"]) > 0
    ids = np.array(drawn.value)
    for row in range(ids.shape[0]):
        places = (np.arange(int(mask[row].sum())) + row * (spoken.size // 2)) % spoken.size
        ids[row, mask[row]] = spoken[places]
    short = spoken.size < mask.sum(axis=1).max()
    notes = [f"the text has {spoken.size} tokens and is repeated"] if short else []
    return {**inputs, **host_inputs({"input_ids": ids})}, notes


def _write(path: Path, inputs: Inputs) -> None:
    """A `.npz`; what numpy has no dtype for is widened."""
    try:
        with path.open("wb") as file:
            arrays: dict[str, Any] = {n: widen(t.value, t.dtype) for n, t in inputs.items()}
            np.savez(file, **arrays)
    except OSError as error:
        raise OptionError(f"{path}: cannot be written ({describe(error)})") from error
