"""Inputs for a Hugging Face model when the user gives none, made so that bugs show.

Apart from `hub.py`: what discriminates is a question of its own. One token hides rotary errors, an
even batch hides padding errors, a sequence inside the sliding window hides the window.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch

TOKENS = 48
"""Length of a default prompt, longer where a sliding window would hide otherwise."""
PADDING = (2, 9)
"""Padded tokens of the two rows: unequal, and none of them zero."""
_LONGEST = 512
_SAMPLES = 16_000


def default_inputs(
    model: Any, seed: int = 0, tokens: int | None = None
) -> dict[str, torch.Tensor] | None:
    """Seeded inputs of two rows for a transformers ``model``; None for a kind of input that is not known.

    ``tokens`` is the length of a text; None chooses it, at least 48 where the model has as many positions.

    Text: int64 `input_ids` (2, tokens) over the whole vocabulary and `attention_mask`, padded on the left
    for a causal model and on the right for others. Vision: `pixel_values` (2, channels, height, width).
    Audio: `input_features` or `input_values`. An encoder-decoder also gets `decoder_input_ids`.
    """
    generator = torch.Generator().manual_seed(seed)
    accepted = inspect.signature(model.forward).parameters
    makers = {
        "input_ids": _text,
        "pixel_values": _image,
        "input_features": _features,
        "input_values": _sound,
    }
    maker = makers.get(model.main_input_name)
    inputs = maker(model, generator, tokens) if maker else {}
    if not inputs:
        return None
    if model.config.is_encoder_decoder and "decoder_input_ids" in accepted:
        inputs["decoder_input_ids"] = _ids(model, generator, 12)
    if model.main_input_name == "input_ids" and _sees_beside_text(model, accepted):
        inputs |= _image(model, generator)
    return {name: value for name, value in inputs.items() if name in accepted}


def _text(
    model: Any, generator: torch.Generator, tokens: int | None = None
) -> dict[str, torch.Tensor]:
    config = model.config.get_text_config()
    if tokens is None:
        tokens = TOKENS
        window = getattr(config, "sliding_window", None)
        if isinstance(window, int) and tokens <= window <= _LONGEST - 16:
            tokens = window + 16
    limit = getattr(config, "max_position_embeddings", None)
    if isinstance(limit, int) and limit > 4:
        tokens = min(tokens, limit - 2)  # RoBERTa counts positions from 2
    ids = _ids(model, generator, tokens)
    mask = torch.ones_like(ids)
    left = "CausalLM" in type(model).__name__ or "LMHead" in type(model).__name__
    for row, padded in enumerate(min(p, tokens // 4) for p in PADDING):
        mask[row, slice(0, padded) if left else slice(tokens - padded, tokens)] = 0
    pad = _pad_token(config)
    return {"input_ids": ids.masked_fill(mask == 0, pad), "attention_mask": mask}


def _ids(model: Any, generator: torch.Generator, tokens: int) -> torch.Tensor:
    """Token ids over the vocabulary, without the padding token: some models find padding by it."""
    config = model.config.get_text_config()
    pad = _pad_token(config)
    ids = torch.randint(0, config.vocab_size - 1, (len(PADDING), tokens), generator=generator)
    return ids + (ids >= pad)


def _pad_token(config: Any) -> int:
    pad = getattr(config, "pad_token_id", None)
    return pad if isinstance(pad, int) and 0 <= pad < config.vocab_size else 0


def _sees_beside_text(model: Any, accepted: Any) -> bool:
    """Whether a text model also needs an image (CLIP), without image tokens among the text."""
    image_tokens = ("image_token_id", "image_token_index")
    return "pixel_values" in accepted and not any(hasattr(model.config, k) for k in image_tokens)


def _image(
    model: Any, generator: torch.Generator, _tokens: int | None = None
) -> dict[str, torch.Tensor]:
    config = getattr(model.config, "vision_config", model.config)
    size = getattr(config, "image_size", None)
    if size is None:
        return {}
    height, width = (size, size) if isinstance(size, int) else tuple(size)
    shape = (len(PADDING), getattr(config, "num_channels", 3), height, width)
    return {"pixel_values": torch.randn(shape, generator=generator).to(model.dtype)}


def _features(
    model: Any, generator: torch.Generator, _tokens: int | None = None
) -> dict[str, torch.Tensor]:
    """Whisper's spectrogram: (2, mel bins, twice the encoder's positions)."""
    config = model.config
    if not hasattr(config, "num_mel_bins") or not hasattr(config, "max_source_positions"):
        return {}
    shape = (len(PADDING), config.num_mel_bins, 2 * config.max_source_positions)
    return {"input_features": torch.randn(shape, generator=generator).to(model.dtype)}


def _sound(
    model: Any, generator: torch.Generator, _tokens: int | None = None
) -> dict[str, torch.Tensor]:
    """One second of noise at 16 kHz."""
    shape = (len(PADDING), _SAMPLES)
    return {"input_values": torch.randn(shape, generator=generator).to(model.dtype)}
