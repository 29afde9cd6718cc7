"""Traces put together from others, so that two runs of different shape can be compared: rows stacked, padding cut
off, decoding steps joined.

Apart from the self-checks, which decide what is run: here are arrays alone. What has no counterpart is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from firstdiff.traces import TraceWriter

if TYPE_CHECKING:
    from firstdiff.traces import Activation, Trace

Parts = list[np.ndarray]


def stack_rows(runs: Sequence[Trace], like: Trace, output: Path) -> Path:
    """``runs`` of one batch row each as one trace with the batch axis of ``like``."""
    known = [{a.key: a for a in run.activations} for run in runs]

    def made(activation: Activation) -> np.ndarray | None:
        found = [keys.get(activation.key) for keys in known]
        if any(a is None or a.dtype != activation.dtype for a in found):
            return None
        parts = [run.stored(a) for run, a in zip(runs, found, strict=True) if a is not None]
        return _concatenated(parts, activation.shape)

    return _write(like, runs[0], output, made)


def crop_padding(run: Trace, like: Trace, padding: int, *, left: bool, output: Path) -> Path:
    """``run`` without its ``padding`` tokens, which lie on the ``left`` or on the right."""
    known = {a.key: a for a in run.activations}

    def made(activation: Activation) -> np.ndarray | None:
        found = known.get(activation.key)
        if found is None or found.dtype != activation.dtype:
            return None
        if len(found.shape) != len(activation.shape):
            return None
        longer = [size - own for size, own in zip(found.shape, activation.shape, strict=True)]
        if any(extra not in (0, padding) for extra in longer):
            return None
        kept = slice(padding, None) if left else slice(None, -padding)
        return run.stored(found)[tuple(kept if extra else slice(None) for extra in longer)]

    return _write(like, run, output, made)


def join_steps(run: Trace, like: Trace, output: Path) -> Path:
    """The steps of a decoding ``run`` as one trace over all tokens, as the prefill ``like`` has them.

    Masks are left out: a step's mask covers the tokens so far, and hides none of them by what it lacks. What the
    last step left behind (`cache.`) stays as it is.
    """
    steps = max(a.key.step for a in run.activations) + 1
    known = {a.key: a for a in run.activations}

    def made(activation: Activation) -> np.ndarray | None:
        if "mask" in activation.key.leaf or activation.dtype == "bool":
            return None
        if activation.key.path.startswith("cache."):
            left = known.get(activation.key)
            return None if left is None else run.stored(left)
        found = [known.get(replace(activation.key, step=step)) for step in range(steps)]
        parts = [run.stored(a) for a in found if a is not None and a.dtype == activation.dtype]
        return _concatenated(parts, activation.shape) if len(parts) == steps else None

    return _write(like, run, output, made)


def _concatenated(parts: Parts, shape: tuple[int, ...]) -> np.ndarray | None:
    """``parts`` side by side along the axis on which they add up to ``shape``; equal ones as one where none does.

    Along another axis a part may be shorter (the keys that a step of attention sees): zeros follow then; or longer (the
    places of a cache of fixed length): what lies beyond is left out, and shows in the rest where it was seen.
    """
    if any(part.ndim != len(shape) for part in parts):
        return None
    if all(part.shape == shape for part in parts):
        return parts[0] if all(np.array_equal(part, parts[0]) for part in parts) else None
    for axis in range(len(shape)):
        if sum(part.shape[axis] for part in parts) == shape[axis]:
            return np.concatenate([_fitted(part, shape, axis) for part in parts], axis=axis)
    return None


def _fitted(part: np.ndarray, shape: tuple[int, ...], axis: int) -> np.ndarray:
    """``part`` cut off or followed by zeros along every axis but ``axis``, so that it fits into ``shape``."""
    others = [n for n in range(len(shape)) if n != axis]
    kept = tuple(slice(shape[n]) if n in others else slice(None) for n in range(len(shape)))
    part = part[kept]
    missing = [shape[n] - part.shape[n] if n in others else 0 for n in range(len(shape))]
    return np.pad(part, [(0, width) for width in missing]) if any(missing) else part


def _write(
    like: Trace, run: Trace, output: Path, made: Callable[[Activation], np.ndarray | None]
) -> Path:
    """A trace with the keys and inputs of ``like`` and the values that ``made`` gives."""
    told = {name: value for name, value in run.header.extra.items() if name != "decoding"}
    with TraceWriter(output, replace(run.header, extra=told), overwrite=True) as writer:
        for name, given in like.inputs.items():
            writer.write_input(name, like.input(name), dtype=given.dtype)
        for activation in like.activations:
            value = made(activation)
            if value is not None:
                writer.write(
                    activation.key,
                    np.ascontiguousarray(value),
                    dtype=activation.dtype,
                    class_name=activation.class_name,
                    axes=activation.axes,
                    source=activation.source,
                )
        return writer.finish()
