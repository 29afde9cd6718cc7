"""What is traced: a model, how it is called, and with what."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Subject:
    """A model that can be traced, as a user's factory returns it.

    Example::

        def build():
            params = load("model.safetensors")
            return firstdiff.Subject(
                model=params,
                call=lambda params, input_ids, attention_mask=None: Qwen2(config).apply(
                    {"params": params}, input_ids, attention_mask
                ),
            )
    """

    model: Any
    """A torch, NNX or Equinox module, a Keras model, or the parameter tree beside a linen, Haiku or plain function."""
    call: Callable[..., Any] | None = None
    """``call(model, **inputs)`` runs one forward pass; None means ``model(**inputs)``."""
    inputs: Mapping[str, Any] | None = None
    """Default inputs by keyword, used when the command line or the reference trace gives none."""
    framework: str | None = None
    """`torch`, `linen`, `nnx`, `equinox`, `haiku`, `keras` or `functions`; None means: find out."""
    name: str = ""
    """How the user named it; filled in when it is loaded from `file.py:name`."""
    module: Any | None = None
    """The linen module, where the user wants modules that never fired listed beyond what the parameter tree shows."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """The model's configuration, for the header; found by itself for Hugging Face models."""
    step: Callable[..., tuple[Any, Any]] | None = None
    """``step(model, cache, **inputs)`` runs new tokens after those in ``cache`` and returns (what ``call`` returns for
    them, the cache with them in it). Inputs: `input_ids`[batch, new tokens]; where ``step`` takes them, `position_ids`
    of the same shape and `attention_mask`, which covers all tokens so far, or the whole cache where ``cache`` makes
    one, 0 where nothing has been written. A model that keeps its cache in itself (NNX) returns None for it.
    None: decoding runs ``call`` on all tokens so far again."""
    cache: Callable[..., Any] | None = None
    """``cache(model, batch, length)`` makes an empty cache for ``length`` tokens, any pytree of arrays. None: the first
    ``step`` gets None for it, and returns a cache that grows."""
