"""Lengths in tokens from which a model behaves differently, read from its configuration.

Apart from `vacuity`, because whoever makes inputs asks the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

_BEYOND = ("dynamic", "longrope", "su")
"""Kinds of RoPE scaling that change nothing up to the original context length; linear, llama3 and yarn always act."""


@dataclass(frozen=True)
class Limits:
    """What a prompt has to exceed before it can show a certain mistake; None where the model has no such thing."""

    window: int | None = None
    """Tokens that a layer with sliding-window (or chunked) attention sees."""
    rope: int | None = None
    """Context length beyond which the RoPE scaling changes the frequencies."""
    positions: int | None = None
    """Positions that the model was made for: a longer input may not run at all."""

    @property
    def enough(self) -> int:
        """The least number of tokens that exceeds both thresholds; 0 when there are none."""
        return max((limit + 16 for limit in (self.window, self.rope) if limit), default=0)


def limits_of(config: Mapping[str, Any]) -> Limits:
    """The limits in ``config``, a Hugging Face configuration as a dict (of text, where it has several parts)."""
    text = config.get("text_config")
    config = text if isinstance(text, Mapping) else config
    return Limits(_window(config), _rope(config), _number(config.get("max_position_embeddings")))


def _window(config: Mapping[str, Any]) -> int | None:
    if config.get("use_sliding_window") is False:
        return None
    kinds = config.get("layer_types")
    if isinstance(kinds, list) and not any(
        "sliding" in str(k) or "chunked" in str(k) for k in kinds
    ):
        return None
    found = [_number(config.get(name)) for name in ("sliding_window", "attention_chunk_size")]
    return min((size for size in found if size), default=None)


def _rope(config: Mapping[str, Any]) -> int | None:
    for rope in _ropes(config):
        kind = rope.get("rope_type", rope.get("type"))
        if kind in _BEYOND:
            original = rope.get("original_max_position_embeddings")
            original = original or config.get("original_max_position_embeddings")
            return _number(original or config.get("max_position_embeddings"))
    return None


def _ropes(config: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Every description of RoPE: one for all layers, or one for each kind of layer."""
    for name in ("rope_parameters", "rope_scaling"):
        rope = config.get(name)
        if isinstance(rope, Mapping):
            nested = [value for value in rope.values() if isinstance(value, Mapping)]
            yield from nested or [rope]


def _number(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
