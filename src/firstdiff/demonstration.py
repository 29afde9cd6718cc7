"""The demonstration: a tiny Qwen2, its Hugging Face reference, a faulty JAX port and the right one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from firstdiff.checking import check
from firstdiff.recording import Capture, record

if TYPE_CHECKING:
    from firstdiff.diff import Diff

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
        OptionError: there is no such ``framework`` or ``fault``.
        SubjectError: a package that the demonstration needs is missing.
    """
    from firstdiff.models import qwen2
    from firstdiff.models.checkpoint import discriminating_inputs, write_checkpoint

    folder = Path(folder)
    progress("drawing a tiny Qwen2 checkpoint")
    checkpoint = write_checkpoint(folder / "checkpoint", seed=seed)
    reference = record(
        f"hf:{checkpoint}",
        folder / "ref.h5",
        inputs=discriminating_inputs(seed=seed),
        dtype=dtype,
        force=True,
        progress=progress,
    )
    on_capture(reference)
    results = []
    for title, name in ((fault, fault), ("the right port", None)):
        subject = qwen2.subject(framework, checkpoint, fault=name, dtype=dtype)
        output = folder / ("port.h5" if name is None else f"port-{name}.h5")
        result = check(reference.path, subject, output=output, force=True, progress=progress)
        on_diff(title, result)
        results.append(result)
    return Demo(reference, *results)
