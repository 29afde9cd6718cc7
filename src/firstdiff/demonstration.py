"""The demonstration: a tiny model, its Hugging Face reference, a faulty JAX port and the right one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from firstdiff.checking import check
from firstdiff.recording import record
from firstdiff.traces.errors import OptionError

if TYPE_CHECKING:
    import numpy as np

    from firstdiff.captured import Capture
    from firstdiff.diff import Diff
    from firstdiff.models.subject import Subject

FAULT = "rotary_interleaved"
"""The fault that costs people a week: the rotary embedding pairs neighbouring channels instead of halves."""


@dataclass(frozen=True)
class Demo:
    """What the demonstration made."""

    reference: Capture
    """The Hugging Face reference's trace."""
    faulty: Diff
    """The faulty port against it."""
    right: Diff
    """The right port against it."""


@dataclass(frozen=True)
class _Pair:
    """What the two sides are made of."""

    inputs: dict[str, np.ndarray] | None
    """None for Hugging Face's kind of input, drawn."""
    port: Callable[..., Subject]
    """``port(framework, fault=name)``."""


def title_of(fault: str) -> str:
    """The model that has the ``fault``, in words.

    Raises:
        OptionError: there is no such fault.
    """
    from firstdiff.models.faults import find

    return _title(find(fault).family)


def _title(family: str) -> str:
    titles = {"gpt2": "GPT-2", "bert": "BERT", "vit": "ViT"}
    return titles.get(family, family.capitalize())


def catalogue() -> dict[str, dict[str, str]]:
    """What each fault does wrong, in a sentence, by its name; by the title of the model that has it."""
    from firstdiff.models.faults import every_fault

    found: dict[str, dict[str, str]] = {}
    for name, fault in every_fault().items():
        found.setdefault(_title(fault.family), {})[name] = fault.sentence
    return found


def _check_choice(family: str, framework: str, dtype: str) -> None:
    """Refuse before anything is written or captured."""
    from firstdiff.models.qwen2.ports import PORTS, UNSTACKED

    frameworks = (*PORTS, *UNSTACKED) if family == "qwen2" else ("linen",)
    if framework not in frameworks:
        known = ", ".join(frameworks)
        raise OptionError(f"framework {framework!r}: {_title(family)} has ports in {known}.")
    if family != "qwen2" and dtype != "float32":
        raise OptionError(f"dtype {dtype!r}: the port of {_title(family)} computes in float32.")


def _pair(checkpoint: Path, family: str, seed: int, dtype: str) -> _Pair:
    """Write the checkpoint of the ``family`` that has the fault."""
    from firstdiff.models.checkpoint import discriminating_inputs, write_checkpoint

    if family == "qwen2":
        from firstdiff.models import qwen2

        write_checkpoint(checkpoint, seed=seed)
        return _Pair(
            discriminating_inputs(seed=seed), partial(qwen2.subject, folder=checkpoint, dtype=dtype)
        )
    from firstdiff.models import ported
    from firstdiff.models.family_checkpoint import write_family

    write_family(family, checkpoint, seed=seed)
    return _Pair(None, partial(ported.subject, family, folder=checkpoint))


def demo(
    folder: str | Path,
    *,
    framework: str = "linen",
    fault: str = FAULT,
    seed: int = 0,
    dtype: str = "float32",
    on_capture: Callable[[Capture], None] = lambda _capture: None,
    on_diff: Callable[[str, Diff], None] = lambda _title, _diff: None,
    progress: Callable[[str], None] = lambda _message: None,
) -> Demo:
    """Make a checkpoint in ``folder``, capture its reference, and check a faulty and the right port against it.

    ``on_capture`` and ``on_diff`` receive each result as soon as it is there.

    Raises:
        OptionError: there is no such ``fault``, or its port cannot be had in that ``framework`` or ``dtype``.
        SubjectError: a package that the demonstration needs is missing.
    """
    from firstdiff.models.faults import find

    folder, family = Path(folder), find(fault).family
    _check_choice(family, framework, dtype)
    progress(f"drawing a tiny {_title(family)} checkpoint")
    pair = _pair(folder / "checkpoint", family, seed, dtype)
    reference = record(
        f"hf:{folder / 'checkpoint'}",
        folder / "ref.h5",
        inputs=pair.inputs,
        dtype=dtype,
        force=True,
        progress=progress,
    )
    on_capture(reference)
    results = []
    for title, name in ((fault, fault), ("the right port", None)):
        subject = pair.port(framework, fault=name)
        output = folder / ("port.h5" if name is None else f"port-{name}.h5")
        result = check(reference.path, subject, output=output, force=True, progress=progress)
        on_diff(title, result)
        results.append(result)
    return Demo(reference, *results)
