"""The self-checks: each makes two traces of one model that must agree, and compares them.

A check is a function of a `Session` in the table `CHECKS`; one that does not apply raises `NotApplicable`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from firstdiff.assembling import crop_padding, stack_rows
from firstdiff.decoding_checks import decoding, no_cache, static_cache
from firstdiff.diff import diff
from firstdiff.inapplicable import NotApplicable
from firstdiff.inputs import HostTensor, Inputs
from firstdiff.models.loading import find_factory, load_subject, takes
from firstdiff.recorders import record_torch, recorder_for
from firstdiff.recording import record
from firstdiff.traces import open_trace
from firstdiff.traces.errors import OptionError, SubjectError

if TYPE_CHECKING:
    from firstdiff.decoding import Decoding
    from firstdiff.diff import Diff
    from firstdiff.models.subject import Subject

PADDING = 5
"""Tokens of padding in the padded runs."""
_VARIANTS = ("scan", "sharded")


@dataclass
class Session:
    """One subject, its inputs, and the runs made so far."""

    subject: Subject
    inputs: Inputs
    folder: Path
    spec: str | None
    mode: Literal["jit", "eager"] = "jit"
    made: dict[str, Path] = field(default_factory=dict)
    """Traces that several checks use, by name."""
    bare: Inputs | None = None
    """Inputs of the run without padding, once it was made."""

    @property
    def is_torch(self) -> bool:
        """Whether the subject runs in PyTorch, where floors can be measured."""
        return recorder_for(self.subject) is record_torch

    @property
    def function(self) -> Callable[..., Any]:
        """What is called with the inputs."""
        forward = getattr(self.subject.model, "forward", None) if self.is_torch else None
        function = forward if hasattr(self.subject.model, "main_input_name") else self.subject.call
        found: Callable[..., Any] = function or forward or self.subject.model
        return found

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of what the model takes."""
        try:
            return tuple(inspect.signature(self.function).parameters)
        except (TypeError, ValueError):
            return ()

    def accepts(self, name: str) -> bool:
        """Whether the model takes an input ``name``: by its signature, or because it is given one."""
        return name in self.parameters or name in self.inputs

    def plain(self) -> Path:
        """The plain run, with the floor of its own dtype where it can be measured."""
        if "plain" not in self.made:
            self.made["plain"] = self.run("plain", self.inputs, floor=True)
        return self.made["plain"]

    def run(
        self,
        name: str,
        inputs: Mapping[str, Any],
        *,
        floor: bool = False,
        subject: Subject | None = None,
        mode: Literal["jit", "eager"] | None = None,
        floor_dtype: str | None = None,
        steps: int | Decoding = 0,
    ) -> Path:
        """A trace of ``subject``, or of the session's own, on ``inputs``."""
        chosen = subject or self.subject
        floors: tuple[str, ...] = ()
        if floor and self.is_torch:
            floors = (floor_dtype or _dtype_of(chosen.model),)
        return record(
            chosen,
            self.folder / f"{name}.h5",
            inputs=inputs,
            steps=steps,
            floor=[f for f in floors if f in ("float32", "bfloat16", "float16")],
            mode=mode or self.mode,
            framework=chosen.framework,
            verify=False,
            weights=False,
            force=True,
        ).path


def run_twice(session: Session) -> Diff:
    """Random layers left on, uninitialised memory, state that a run leaves behind."""
    first = session.run("once", session.inputs)  # no floor: that of a random model would hide it
    if session.is_torch:
        import torch

        torch.rand(1)  # a capture leaves the random state as it was; in a program it moves on
    return diff(first, session.run("again", session.inputs))


def jit_against_eager(session: Session) -> Diff:
    """Fusion, excess precision, and Python that runs while tracing only."""
    if session.is_torch:
        raise NotApplicable("PyTorch runs eagerly")
    eager = session.run("eager", session.inputs, mode="eager")
    return diff(eager, session.run("jit", session.inputs, mode="jit"))


def batch_against_single(session: Session) -> Diff:
    """Rows that see each other: a transposed axis, statistics over the batch, the mask of another row."""
    rows = _batch(session.inputs)
    if rows < 2:
        raise NotApplicable(
            "the inputs have one row; make two: firstdiff prompt SUBJECT -o inputs.npz"
        )
    with ExitStack() as stack:
        singles = [
            stack.enter_context(open_trace(session.run(f"row{n}", _rows(session.inputs, rows, n))))
            for n in range(rows)
        ]
        whole = stack.enter_context(open_trace(session.plain()))
        return diff(whole, stack_rows(singles, whole, session.folder / "stacked.h5"))


def left_padding(session: Session) -> Diff:
    """Positions that count padding, or a mask that lets it be seen."""
    return _padding(session, left=True)


def right_padding(session: Session) -> Diff:
    """A mask that lets padding be seen; statistics over it."""
    return _padding(session, left=False)


def _padding(session: Session, *, left: bool) -> Diff:
    if "input_ids" not in session.inputs or not session.accepts("attention_mask"):
        raise NotApplicable("the model takes no attention_mask beside input_ids")
    bare = _bare(session)
    side = "left" if left else "right"
    padded = session.run(side, {name: _pad(name, t, session, left) for name, t in bare.items()})
    with open_trace(padded) as run, open_trace(session.made["bare"]) as like:
        output = session.folder / f"{side}-cropped.h5"
        return diff(like, crop_padding(run, like, PADDING, left=left, output=output))


def _bare(session: Session) -> Inputs:
    """The inputs without padding, run once: with the positions of the real tokens, where the model takes them.

    A call that takes any keyword is asked by trying: positions that the model makes itself would count the padding.
    """
    if session.bare is None:
        bare = _unpadded(session)
        count = bare["input_ids"].value.shape[1]
        positions = HostTensor(np.arange(count, dtype=np.int64)[None], "int64")
        session.bare = {**bare, "position_ids": positions}
        if not takes(session.function, "position_ids"):
            session.bare = bare
        try:
            session.made["bare"] = session.run("bare", session.bare, floor=True)
        except SubjectError:
            if session.accepts("position_ids"):
                raise
            session.bare = bare
            session.made["bare"] = session.run("bare", bare, floor=True)
    return session.bare


def _unpadded(session: Session) -> Inputs:
    """The row with the most real tokens, without its padding."""
    ids = session.inputs["input_ids"].value
    mask = session.inputs.get("attention_mask")
    real = np.ones(ids.shape, bool) if mask is None else mask.value > 0
    row = int(real.sum(axis=1).argmax())
    bare: Inputs = {}
    for name, tensor in session.inputs.items():
        if tensor.value.shape[:2] == ids.shape:
            bare[name] = HostTensor(tensor.value[row : row + 1, real[row]], tensor.dtype)
        elif tensor.value.shape[:1] == ids.shape[:1]:
            bare[name] = HostTensor(tensor.value[row : row + 1], tensor.dtype)
        else:
            bare[name] = tensor
    count = bare["input_ids"].value.shape[1]
    bare["attention_mask"] = HostTensor(np.ones((1, count), np.int64), "int64")
    return bare


def _pad(name: str, tensor: HostTensor, session: Session, left: bool) -> HostTensor:
    tokens = int(_unpadded_length(session))
    value = tensor.value
    if value.ndim < 2 or value.shape[1] != tokens:
        return tensor
    fill = _pad_token(session) if name == "input_ids" else 0
    width = [(0, 0), (PADDING, 0) if left else (0, PADDING), *[(0, 0)] * (value.ndim - 2)]
    return HostTensor(np.pad(value, width, constant_values=fill), tensor.dtype)


def _unpadded_length(session: Session) -> int:
    mask = session.inputs.get("attention_mask")
    ids = session.inputs["input_ids"].value
    return ids.shape[1] if mask is None else int((mask.value > 0).sum(axis=1).max())


def _pad_token(session: Session) -> int:
    found = session.subject.config.get("pad_token_id")
    return found if isinstance(found, int) else 0


def precision(session: Session) -> Diff:
    """Steps that lose more in bfloat16 than rounding does."""
    if session.spec is None:
        raise NotApplicable("a model that was loaded already keeps its dtype; give it by name")
    try:
        fine, coarse = (load_subject(session.spec, dtype=d) for d in ("float32", "bfloat16"))
    except OptionError as reason:
        raise NotApplicable(f"it takes no dtype: {reason}") from reason
    ours = session.run("float32", session.inputs, subject=fine, floor=True, floor_dtype="bfloat16")
    return diff(ours, session.run("bfloat16", session.inputs, subject=coarse))


def variant(name: str) -> Callable[[Session], Diff]:
    """A check of the factory's own switch ``name`` against the plain model."""

    def check(session: Session) -> Diff:
        if session.spec is None or session.spec.startswith("hf:"):
            raise NotApplicable(_no_variant(name))
        factory = find_factory(session.spec)
        if name not in inspect.signature(factory).parameters or not takes(factory, name):
            raise NotApplicable(_no_variant(name))
        made = replace(factory(**{name: True}), name=f"{session.spec} {name}")
        return diff(session.plain(), session.run(name, session.inputs, subject=made))

    check.__doc__ = f"The model as its factory makes it with {name}=True."
    return check


def _no_variant(name: str) -> str:
    return f"no factory with a parameter {name}: def build({name}=False)"


CHECKS: dict[str, Callable[[Session], Diff]] = {
    "run twice": run_twice,
    "jit against eager": jit_against_eager,
    "batch against single rows": batch_against_single,
    "left padding against none": left_padding,
    "right padding against none": right_padding,
    "prefill against decoding": decoding,
    "no cache against prefill": no_cache,
    "growing cache against static": static_cache,
    "float32 against bfloat16": precision,
    **{f"{name} against plain": variant(name) for name in _VARIANTS},
}
"""Every check by name, in the order of the table."""


def _batch(inputs: Inputs) -> int:
    """Rows of the inputs: the leading axis that all of them with two axes or more share; 0 without one."""
    sizes = {t.value.shape[0] for t in inputs.values() if t.value.ndim >= 2}
    return sizes.pop() if len(sizes) == 1 else 0


def _rows(inputs: Inputs, rows: int, number: int) -> Inputs:
    return {
        name: HostTensor(t.value[number : number + 1], t.dtype)
        if t.value.ndim and t.value.shape[0] == rows
        else t
        for name, t in inputs.items()
    }


def _dtype_of(model: Any) -> str:
    from firstdiff.tracer.switches import model_dtype

    return model_dtype(model)
