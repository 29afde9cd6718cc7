"""Self-checks of the key-value cache: the same tokens at once and one by one, with a cache and without.

Apart from the other checks, because here each run is made of steps.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from firstdiff.assembling import join_steps
from firstdiff.decoding import COLUMNS, Decoding
from firstdiff.diff import diff
from firstdiff.feeding import with_positions
from firstdiff.inapplicable import NotApplicable
from firstdiff.inputs import HostTensor, Inputs
from firstdiff.traces import open_trace

if TYPE_CHECKING:
    from pathlib import Path

    from firstdiff.diff import Diff
    from firstdiff.selfchecks import Session

DECODED = 8
"""Tokens that are decoded one by one, after a prefill of the rest."""


def decoding(session: Session) -> Diff:
    """A cache index, a mask that is too short, positions that begin anew with every step; the cache's contents too."""
    _require_tokens(session)
    if session.subject.step is not None:
        return _against(session, _prefilled(session), _stepped(session))
    _require_torch_cache(session)
    steps = replace(session.subject, call=_decode)
    return _against(
        session, _torch_prefill(session), session.run("steps", session.inputs, subject=steps)
    )


def no_cache(session: Session) -> Diff:
    """A cache whose unused places are seen, a mask or positions that are made in another way with a cache."""
    _require_tokens(session)
    if session.subject.step is None:
        raise NotApplicable("the subject has no step of its own: Subject(step=..., cache=...)")
    plain = session.run("positioned", _positioned(session), floor=True)
    return diff(plain, _prefilled(session))


def static_cache(session: Session) -> Diff:
    """Places of a cache of fixed length that are seen before they are written."""
    _require_tokens(session)
    if session.subject.step is not None:
        raise NotApplicable("the subject makes its own cache; no cache against prefill checks it")
    _require_torch_cache(session)
    fixed = replace(session.subject, call=_decode_static)
    try:
        run = session.run("static", session.inputs, subject=fixed)
    except _NoStaticCache as reason:
        raise NotApplicable(str(reason)) from reason
    return _against(session, _torch_prefill(session), run)


class _NoStaticCache(NotApplicable):
    """The model cannot take one."""


def _against(session: Session, whole: Path, steps: Path) -> Diff:
    """The run of all tokens at once against ``steps`` joined to one."""
    with open_trace(whole) as like, open_trace(steps) as run:
        return diff(like, join_steps(run, like, session.folder / f"{steps.stem}-joined.h5"))


def _require_tokens(session: Session) -> None:
    ids = session.inputs.get("input_ids")
    if session.subject.step is None and not session.is_torch:
        raise NotApplicable("the subject has no step of its own: Subject(step=..., cache=...)")
    if session.subject.step is None and not {"past_key_values", "use_cache"} <= set(
        session.parameters
    ):
        raise NotApplicable("the model takes no past_key_values")
    if ids is None or ids.value.ndim != 2 or ids.value.shape[1] <= DECODED:
        raise NotApplicable(f"needs input_ids of more than {DECODED} tokens")
    mask = session.inputs.get("attention_mask")
    if mask is not None and not (mask.value[:, -DECODED:] > 0).all():
        raise NotApplicable(f"a row has padding among its last {DECODED} tokens; pad on the left")


def _require_torch_cache(session: Session) -> None:
    if not _is_causal(session.subject.model):
        raise NotApplicable("the model is not causal: a token sees later ones")


def _positioned(session: Session) -> Inputs:
    return with_positions(session.subject, session.inputs)[0]


def _prefilled(session: Session) -> Path:
    """All tokens in one step, and the cache that it leaves."""
    if "prefilled" not in session.made:
        whole = Decoding(0, keep_cache=True)
        session.made["prefilled"] = session.run(
            "prefilled", _positioned(session), steps=whole, floor=True
        )
    return session.made["prefilled"]


def _stepped(session: Session) -> Path:
    """The last tokens one by one, and the cache that they leave."""
    inputs = _positioned(session)
    first: Inputs = {
        name: HostTensor(given.value[:, :-DECODED], given.dtype) if name in COLUMNS else given
        for name, given in inputs.items()
    }
    rest = np.moveaxis(inputs["input_ids"].value[:, -DECODED:], 1, 0)  # [DECODED, batch]
    return session.run("stepped", first, steps=Decoding(DECODED, rest, keep_cache=True))


def _torch_prefill(session: Session) -> Path:
    if "prefill" not in session.made:
        prefill = replace(session.subject, call=_prefill)
        session.made["prefill"] = session.run(
            "prefill", session.inputs, subject=prefill, floor=True
        )
    return session.made["prefill"]


def _prefill(model: Any, **inputs: Any) -> Any:
    return model(**inputs, use_cache=True)


def _decode(model: Any, **inputs: Any) -> Any:
    """All but the last tokens at once, then those one by one, with the cache that the model makes."""
    return _decoded(model, None, inputs)


def _decode_static(model: Any, **inputs: Any) -> Any:
    """The same with a cache of fixed length, longer than needed."""
    import transformers

    length = inputs["input_ids"].shape[1] + DECODED
    try:
        cache = transformers.StaticCache(config=model.config, max_cache_len=length)
    except (AttributeError, TypeError, ValueError) as error:
        raise _NoStaticCache(f"transformers makes no static cache for it: {error}") from error
    return _decoded(model, cache, inputs)


def _decoded(model: Any, cache: Any, inputs: dict[str, Any]) -> Any:
    tokens = inputs["input_ids"].shape[1]
    result, start = None, 0
    for end in range(tokens - DECODED, tokens + 1):
        given = {name: _of_step(name, value, start, end, tokens) for name, value in inputs.items()}
        result = model(**given, past_key_values=cache, use_cache=True)
        cache, start = result.past_key_values, end
    return result


def _of_step(name: str, value: Any, start: int, end: int, tokens: int) -> Any:
    """What a step gets of an input: its own tokens, of the mask all tokens so far."""
    if getattr(value, "ndim", 0) < 2 or value.shape[1] != tokens:
        return value
    return value[:, :end] if name == "attention_mask" else value[:, start:end]


def _is_causal(model: Any) -> bool:
    names = " ".join(base.__name__ for base in type(model).__mro__)
    named = any(part in names for part in ("CausalLM", "LMHead"))
    return named or bool(getattr(getattr(model, "config", None), "is_decoder", False))
