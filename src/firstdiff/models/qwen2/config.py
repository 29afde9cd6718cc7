"""The configuration of a Qwen2 model, as `config.json` says it. Apart, because every port shares it; no framework."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from firstdiff.traces.errors import SubjectError

if TYPE_CHECKING:
    from collections.abc import Mapping

ROPE_TYPES = ("default", "linear", "llama3", "yarn")
_MAGNITUDES = ("mscale", "mscale_all_dim")


@dataclass(frozen=True)
class RopeScaling:
    """How the rotary frequencies are stretched for long contexts; each field as `config.json` names it."""

    rope_type: str
    """`linear`, `llama3` or `yarn`."""
    factor: float
    """How many times longer the context is made."""
    original_max_position_embeddings: int = 0
    """Context length of pretraining, in tokens (llama3, yarn)."""
    low_freq_factor: float = 1.0
    """llama3: wavelengths above ``original / low_freq_factor`` are stretched in full."""
    high_freq_factor: float = 4.0
    """llama3: wavelengths below ``original / high_freq_factor`` are kept."""
    beta_fast: float = 32.0
    """yarn: rotations over the original context from which a frequency is kept."""
    beta_slow: float = 1.0
    """yarn: rotations over the original context up to which a frequency is stretched in full."""
    attention_factor: float | None = None
    """yarn: factor on cos and sin; None derives it from ``factor``."""
    mscale: float | None = None
    """yarn: used with ``mscale_all_dim`` to derive the attention factor."""
    mscale_all_dim: float | None = None
    """yarn: see ``mscale``."""
    truncate: bool = True
    """yarn: whether the correction range is rounded to whole dimensions."""


@dataclass(frozen=True)
class Qwen2Config:
    """Every number that the ports read; names as Hugging Face spells them."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int = 32768
    rms_norm_eps: float = 1e-6
    rope_theta: float = 1e6
    rope_scaling: RopeScaling | None = None
    tie_word_embeddings: bool = False

    @classmethod
    def from_hf(cls, source: str | Path | Mapping[str, Any]) -> Qwen2Config:
        """Read ``source``: a checkpoint folder, a `config.json`, or its contents as a dict.

        Understands `rope_parameters` (transformers 5) and `rope_theta` with `rope_scaling` (4).

        Raises:
            SubjectError: there is no such file, it is not a Qwen2 model, or it asks for something
                that the ports do not compute (a sliding window, another rope type or activation).
        """
        place, hf = _read(source)
        _refuse_what_the_ports_lack(place, hf)
        try:
            return cls._from_fields(place, hf)
        except KeyError as missing:
            raise SubjectError(f"{place}: {missing.args[0]} is missing.") from None

    @classmethod
    def _from_fields(cls, place: str, hf: Mapping[str, Any]) -> Qwen2Config:
        heads = int(hf["num_attention_heads"])
        kv_heads = int(hf.get("num_key_value_heads") or heads)
        if heads % kv_heads:
            raise SubjectError(
                f"{place}: num_attention_heads {heads} is no multiple of num_key_value_heads {kv_heads}."
            )
        rope = _rope_parameters(hf)
        return cls(
            vocab_size=int(hf["vocab_size"]),
            hidden_size=int(hf["hidden_size"]),
            intermediate_size=int(hf["intermediate_size"]),
            num_hidden_layers=int(hf["num_hidden_layers"]),
            num_attention_heads=heads,
            num_key_value_heads=kv_heads,
            head_dim=int(hf.get("head_dim") or int(hf["hidden_size"]) // heads),
            max_position_embeddings=int(hf.get("max_position_embeddings", 32768)),
            rms_norm_eps=float(hf.get("rms_norm_eps", 1e-6)),
            rope_theta=float(rope["rope_theta"]),
            rope_scaling=_rope_scaling(place, rope),
            tie_word_embeddings=bool(hf.get("tie_word_embeddings", False)),
        )

    def to_hf(self, *, dtype: str = "float32") -> dict[str, Any]:
        """`config.json` as Qwen2.5 publishes it, readable by transformers 4 and 5."""
        hf: dict[str, Any] = {
            "architectures": ["Qwen2ForCausalLM"],
            "attention_dropout": 0.0,
            "hidden_act": "silu",
            "initializer_range": 0.02,
            "max_window_layers": self.num_hidden_layers,
            "model_type": "qwen2",
            "sliding_window": self.max_position_embeddings,
            "torch_dtype": dtype,
            "use_cache": True,
            "use_sliding_window": False,
        }
        hf |= {f.name: getattr(self, f.name) for f in fields(self) if f.name != "rope_scaling"}
        if self.rope_scaling is not None:
            hf["rope_scaling"] = _scaling_to_hf(self.rope_scaling)
        return hf


def _read(source: str | Path | Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    if not isinstance(source, (str, Path)):
        return "config", source
    path = Path(source)
    path = path / "config.json" if path.is_dir() else path
    try:
        hf = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SubjectError(
            f"{path}: no such file; a checkpoint folder has a config.json."
        ) from None
    except ValueError as error:
        raise SubjectError(f"{path}: not JSON ({error}).") from None
    if not isinstance(hf, dict):
        raise SubjectError(f"{path}: holds a {type(hf).__name__}, not a configuration.")
    return str(path), hf


def _refuse_what_the_ports_lack(place: str, hf: Mapping[str, Any]) -> None:
    if hf.get("model_type", "qwen2") != "qwen2":
        raise SubjectError(
            f"{place}: model_type is {hf['model_type']!r}, the ports compute 'qwen2'."
        )
    if hf.get("hidden_act", "silu") != "silu":
        raise SubjectError(
            f"{place}: hidden_act is {hf['hidden_act']!r}, the ports compute 'silu'."
        )
    if _slides(hf):
        raise SubjectError(
            f"{place}: use_sliding_window is true, the ports attend to the whole context; "
            "set it to false if the prompt is shorter than sliding_window."
        )


def _slides(hf: Mapping[str, Any]) -> bool:
    """Whether any layer slides: a windowed config whose max_window_layers covers all layers does not."""
    if hf.get("layer_types") is not None:
        return "sliding_attention" in hf["layer_types"]
    if not hf.get("use_sliding_window") or hf.get("sliding_window", 4096) is None:
        return False
    return int(hf.get("max_window_layers", 28)) < int(hf["num_hidden_layers"])


def _rope_parameters(hf: Mapping[str, Any]) -> dict[str, Any]:
    """One dict for both spellings; a theta inside it wins over one beside it, as in transformers."""
    rope = dict(hf.get("rope_scaling") or hf.get("rope_parameters") or {})
    rope.setdefault("rope_theta", hf.get("rope_theta", 10000.0))
    rope["rope_type"] = rope.get("rope_type") or rope.get("type") or "default"
    return rope


def _rope_scaling(place: str, rope: Mapping[str, Any]) -> RopeScaling | None:
    if rope["rope_type"] not in ROPE_TYPES or rope.get("partial_rotary_factor", 1.0) != 1.0:
        raise SubjectError(
            f"{place}: rope_type is {rope['rope_type']!r} with partial_rotary_factor "
            f"{rope.get('partial_rotary_factor', 1.0)}; the ports compute {', '.join(ROPE_TYPES)} in full."
        )
    if rope["rope_type"] == "default":
        return None
    known = {f.name for f in fields(RopeScaling)}
    given = {k: v for k, v in rope.items() if k in known and v is not None}
    missing = {"factor", "original_max_position_embeddings"} - given.keys()
    if rope["rope_type"] == "linear":
        missing.discard("original_max_position_embeddings")
    if missing:
        raise SubjectError(
            f"{place}: rope_type {rope['rope_type']!r} needs {', '.join(sorted(missing))}."
        )
    return RopeScaling(**given)


def _scaling_to_hf(scaling: RopeScaling) -> dict[str, Any]:
    bounds = ("factor", "original_max_position_embeddings")
    wanted = {
        "linear": ("factor",),
        "llama3": (*bounds, "low_freq_factor", "high_freq_factor"),
        "yarn": (*bounds, "beta_fast", "beta_slow", "truncate", "attention_factor", *_MAGNITUDES),
    }[scaling.rope_type]
    values = {name: getattr(scaling, name) for name in wanted}
    return {"rope_type": scaling.rope_type} | {k: v for k, v in values.items() if v is not None}


def _published(
    hidden: int, intermediate: int, layers: int, heads: int, kv_heads: int, **other: Any
) -> Qwen2Config:
    return Qwen2Config(
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=hidden // heads,
        **other,
    )


_SMALL = {"vocab_size": 151936, "tie_word_embeddings": True}
_LARGE = {"vocab_size": 152064, "max_position_embeddings": 131072}

PUBLISHED: dict[str, Qwen2Config] = {
    "0.5B": _published(896, 4864, 24, 14, 2, **_SMALL),
    "1.5B": _published(1536, 8960, 28, 12, 2, **_SMALL, max_position_embeddings=131072),
    "3B": _published(2048, 11008, 36, 16, 2, **_SMALL),
    "7B": _published(3584, 18944, 28, 28, 4, **_LARGE),
    "14B": _published(5120, 13824, 48, 40, 8, **_LARGE, rms_norm_eps=1e-5),
    "32B": _published(5120, 27648, 64, 40, 8, **_LARGE, rms_norm_eps=1e-5),
    "72B": _published(8192, 29568, 80, 64, 8, **_LARGE, rms_norm_eps=1e-5),
}
"""Qwen2.5 base models. The instruction-tuned ones differ in eps (1e-6 throughout) and context length."""

TINY = Qwen2Config(
    vocab_size=320,
    hidden_size=64,
    intermediate_size=176,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
    tie_word_embeddings=True,
)
"""Small enough for a test of milliseconds; o_proj and q_proj are square, so that a transpose is silent."""
