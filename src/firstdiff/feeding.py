"""Which inputs a subject is run with: the one source that was given, fitted to what its call takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from firstdiff.decoding import positions_of
from firstdiff.inputs import HostTensor, Inputs, host_inputs, parse_input_ids, read_inputs
from firstdiff.models.loading import describe, needed, takes
from firstdiff.traces.dtypes import widen
from firstdiff.traces.errors import OptionError, SubjectError

if TYPE_CHECKING:
    from firstdiff.models.subject import Subject


def choose_inputs(
    subject: Subject,
    inputs: str | Path | Mapping[str, Any] | None,
    prompt: str | Sequence[str] | None,
    prompt_file: str | Path | None,
    input_ids: str | None,
) -> Inputs:
    """The one source of inputs that was given, or the subject's own default.

    Raises:
        OptionError: two sources at once, or none at all.
    """
    given = {
        "--inputs": inputs,
        "--prompt": prompt,
        "--prompt-file": prompt_file,
        "--input-ids": input_ids,
    }
    named = [name for name, value in given.items() if value is not None]
    if len(named) > 1:
        raise OptionError(
            f"{' and '.join(named)} are given; the model takes its inputs from one of them"
        )
    if inputs is not None:
        return read_inputs(inputs) if isinstance(inputs, str | Path) else host_inputs(inputs)
    if input_ids is not None:
        return parse_input_ids(input_ids)
    if prompt is not None or prompt_file is not None:
        return _encode(subject, prompt, prompt_file)
    if subject.inputs is not None:
        return host_inputs(subject.inputs)
    raise OptionError(
        f"{subject.name or 'the subject'} has no inputs: give --inputs FILE, a trace or what "
        f"firstdiff prompt writes, or set Subject(inputs=...)"
    )


def _encode(
    subject: Subject, prompt: str | Sequence[str] | None, prompt_file: str | Path | None
) -> Inputs:
    if not subject.name.startswith("hf:"):
        raise OptionError(
            f"--prompt: {subject.name} has no tokenizer; give --input-ids or --inputs"
        )
    rows: Sequence[str]
    if prompt is not None:
        rows = [prompt] if isinstance(prompt, str) else prompt
    else:
        rows = _read_prompts(Path(prompt_file or ""))
    from firstdiff.models.hub import encode

    return host_inputs(encode(subject.name, rows))


def _read_prompts(path: Path) -> list[str]:
    try:
        rows = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(
            f"--prompt-file {path}: {describe(error)}; give a UTF-8 text file"
        ) from error
    if not rows:
        raise OptionError(f"--prompt-file {path}: empty; write one prompt a line")
    return rows


def fit_inputs(subject: Subject, inputs: Inputs) -> tuple[Inputs, tuple[str, ...]]:
    """``inputs`` that the subject's call takes, and a note on each that is left out or added.

    An attention mask of ones may be left out or added, because it says nothing; so may positions that count the
    real tokens.

    Raises:
        SubjectError: the call does not take an input that matters, or needs one that is not there.
    """
    if subject.call is None:
        return inputs, ()
    kept, notes = dict(inputs), []
    for name in needed(subject.call):
        if name in inputs:
            continue
        if name != "attention_mask" or "input_ids" not in inputs:
            raise SubjectError(
                f"{subject.name}: its call needs {name!r}, but the model is to be run with {', '.join(inputs)} alone; "
                f"give {name} a default in call, or inputs that hold it"
            )
        ids = inputs["input_ids"].value
        kept[name] = HostTensor(np.ones(ids.shape, np.int64), "int64")
        notes.append(
            "attention_mask was passed as ones: the call needs one, and the inputs have none"
        )
    for name, tensor in inputs.items():
        if takes(subject.call, name):
            continue
        if not _says_nothing(name, inputs):
            raise SubjectError(
                f"{subject.name}: its call takes no {name!r}, but the model is to be run with one "
                f"({tensor.dtype}{list(tensor.value.shape)}); add the parameter {name} to call"
            )
        del kept[name]
        follows = "it is all ones" if name == "attention_mask" else "it follows from the others"
        notes.append(f"{name} was not passed on: the call does not take it, and {follows}")
    return kept, tuple(notes)


def with_positions(subject: Subject, inputs: Inputs) -> tuple[Inputs, tuple[str, ...]]:
    """``inputs`` for decoding: with positions that do not count padding, where there is padding and the model takes
    positions but is given none; and a note."""
    mask = inputs.get("attention_mask")
    if mask is None or "position_ids" in inputs or bool((mask.value > 0).all()):
        return inputs, ()
    if not takes(
        getattr(subject.model, "forward", None) or subject.call or subject.model, "position_ids"
    ):
        return inputs, ()
    made = HostTensor(positions_of(mask.value).astype(np.int64), "int64")
    note = "position_ids were made from attention_mask, as Hugging Face's generate does"
    return {**inputs, "position_ids": made}, (note,)


def _says_nothing(name: str, inputs: Inputs) -> bool:
    """Whether a model that does not take the input ``name`` has it anyway: a mask of ones, positions that count
    the tokens, or those that the mask shows."""
    tensor, mask = inputs[name], inputs.get("attention_mask")
    if name == "attention_mask":
        return bool((widen(tensor.value, tensor.dtype) == 1).all())
    if name != "position_ids" or tensor.value.ndim != 2:
        return False
    shown = np.ones_like(tensor.value) if mask is None else mask.value
    return np.array_equal(tensor.value, np.broadcast_to(positions_of(shown), tensor.value.shape))
