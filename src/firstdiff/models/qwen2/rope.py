"""Rotary frequencies: numbers that depend on the configuration alone, so computed once, in numpy.

Float32 throughout and in the order of Hugging Face's `modeling_rope_utils`: at position 32,000 one ulp of a
frequency is already a thousandth of a radian.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from firstdiff.models.qwen2.config import Qwen2Config, RopeScaling

Frequencies = np.ndarray[tuple[int], np.dtype[np.float32]]


def inverse_frequencies(config: Qwen2Config) -> tuple[Frequencies, float]:
    """Radians per token, float32 of shape [head_dim / 2], and the factor on cos and sin (1 except for yarn)."""
    pairs = np.arange(0, config.head_dim, 2, dtype=np.float32) / np.float32(config.head_dim)
    periods = np.power(np.float32(config.rope_theta), pairs, dtype=np.float32)
    frequencies = np.float32(1) / periods
    scaling = config.rope_scaling
    if scaling is None:
        return frequencies, 1.0
    if scaling.rope_type == "linear":
        return frequencies / np.float32(scaling.factor), 1.0
    if scaling.rope_type == "llama3":
        return _llama3(frequencies, scaling), 1.0
    return _yarn(periods, config, scaling), _attention_factor(scaling)


def _llama3(frequencies: Frequencies, scaling: RopeScaling) -> Frequencies:
    """Short wavelengths kept, long ones stretched, a linear blend between (Llama 3.1)."""
    context = scaling.original_max_position_embeddings
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    wavelengths = np.float32(2 * math.pi) / frequencies
    blend = (np.float32(context) / wavelengths - np.float32(low)) / np.float32(high - low)
    stretched = frequencies / np.float32(scaling.factor)
    between = (np.float32(1) - blend) * stretched + blend * frequencies
    blended = np.where(wavelengths > np.float32(context / low), stretched, between)
    blended = np.where(wavelengths < np.float32(context / high), frequencies, blended)
    return np.asarray(blended, dtype=np.float32)


def _yarn(periods: Frequencies, config: Qwen2Config, scaling: RopeScaling) -> Frequencies:
    """Frequencies that turn often in the original context kept, rare ones stretched (arXiv:2309.00071)."""
    low, high = _correction_range(config, scaling)
    ramp = np.arange(config.head_dim // 2, dtype=np.float32) - np.float32(low)
    stretched = np.clip(ramp / np.float32(high - low if high != low else 0.001), 0, 1)
    kept = np.float32(1) - stretched
    interpolated = np.float32(1) / (np.float32(scaling.factor) * periods)
    blended = interpolated * (np.float32(1) - kept) + (np.float32(1) / periods) * kept
    return np.asarray(blended, dtype=np.float32)


def _correction_range(config: Qwen2Config, scaling: RopeScaling) -> tuple[float, float]:
    dim, context = config.head_dim, scaling.original_max_position_embeddings

    def dimension(rotations: float) -> float:
        wavelengths = math.log(context / (rotations * 2 * math.pi))
        return dim * wavelengths / (2 * math.log(config.rope_theta))

    low, high = dimension(scaling.beta_fast), dimension(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    return max(low, 0), min(high, dim - 1)


def _attention_factor(scaling: RopeScaling) -> float:
    def magnitude(mscale: float) -> float:
        return 0.1 * mscale * math.log(scaling.factor) + 1.0 if scaling.factor > 1 else 1.0

    if scaling.attention_factor is not None:
        return scaling.attention_factor
    if scaling.mscale and scaling.mscale_all_dim:
        return magnitude(scaling.mscale) / magnitude(scaling.mscale_all_dim)
    return magnitude(1.0)
