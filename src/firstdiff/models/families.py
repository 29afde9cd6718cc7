"""Tiny checkpoints with the tensors of well-known families, their shapes taken from transformers, their values random
and discriminating. No model runs: what the audit and the map are measured on."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from firstdiff.models.twins import Geometry, Kind

if TYPE_CHECKING:
    from collections.abc import Mapping

_SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "vocab_size": 96,
}
_CONFIGS: dict[str, tuple[str, dict[str, Any], Geometry]] = {
    "gpt2": (
        "GPT2Config",
        {
            "n_embd": 32, "n_layer": 3, "n_head": 4, "vocab_size": 96, "n_positions": 40, "bos_token_id": 1,
            "eos_token_id": 1,
        },
        Geometry(4, 4, 8),
    ),
    "bert": ("BertConfig", {**_SIZES, "max_position_embeddings": 40}, Geometry(4, 4, 8)),
    "vit": ("ViTConfig", {**_SIZES, "image_size": 16, "patch_size": 4}, Geometry(4, 4, 8)),
    "llama": ("LlamaConfig", {**_SIZES, "num_key_value_heads": 2}, Geometry(4, 2, 8)),
    "qwen2": ("Qwen2Config", {**_SIZES, "num_key_value_heads": 2, "tie_word_embeddings": True}, Geometry(4, 2, 8)),
    "gemma": ("GemmaConfig", {**_SIZES, "num_key_value_heads": 1, "head_dim": 8}, Geometry(4, 1, 8)),
    "mixtral": ("MixtralConfig", {**_SIZES, "num_key_value_heads": 2, "num_local_experts": 4}, Geometry(4, 2, 8)),
}  # fmt: skip
FAMILIES = tuple(_CONFIGS)


@dataclass(frozen=True)
class Family:
    """A checkpoint of one family."""

    name: str
    """`gpt2`, `llama`."""
    values: Mapping[str, np.ndarray]
    """float32 tensors by name; a tied head has none of its own."""
    classes: Mapping[str, str]
    """Class by module path, in the model's order; every module, also those without parameters."""
    geometry: Geometry
    """Its heads."""

    def kind(self, name: str, value: np.ndarray) -> Kind:
        """What a tensor is, by the class of its module."""
        known = self.classes.get(name.rpartition(".")[0], "")
        if value.ndim == 1:
            return "vector"
        if value.ndim == 3 and "experts" in name:
            return "experts"
        by_class: dict[str, Kind] = {"Embedding": "embedding", "Conv1D": "conv1d", "Conv2d": "conv"}
        if known in by_class:
            return by_class[known]
        return "linear" if value.ndim == 2 else "other"


@cache
def family(name: str, seed: int = 0) -> Family:
    """The checkpoint of a family, from transformers' own module tree; the same ``seed`` gives the same values."""
    import torch
    import transformers

    geometry = _CONFIGS[name][2]
    config, _ = config_of(name)
    auto = transformers.AutoModel if name in ("bert", "vit") else transformers.AutoModelForCausalLM
    with torch.device("meta"):
        model = auto.from_config(config)
    random = np.random.default_rng(seed)
    tied = bool(getattr(config, "tie_word_embeddings", False)) and name not in ("bert", "vit")
    values = {
        key: _draw(key, tuple(tensor.shape), random)
        for key, tensor in model.state_dict().items()
        if not (tied and key == "lm_head.weight")
    }
    classes = {path: type(module).__name__ for path, module in model.named_modules()}
    return Family(name, values, classes, geometry)


def config_of(name: str) -> tuple[Any, str]:
    """transformers' own configuration of a family, and the class of the model that its checkpoint is one of."""
    import transformers

    config_class, options, _ = _CONFIGS[name]
    config = getattr(transformers, config_class)(**options)
    ending = (
        "Model" if name in ("bert", "vit") else "LMHeadModel" if name == "gpt2" else "ForCausalLM"
    )
    return config, config_class.removesuffix("Config") + ending


def _draw(name: str, shape: tuple[int, ...], random: np.random.Generator) -> np.ndarray:
    """Norm scales away from one, biases away from zero, embeddings small."""
    norm = name.endswith(".weight") and len(shape) == 1
    spread = 0.3 if norm else 0.02 if "embed" in name or ".wte" in name or ".wpe" in name else 0.15
    return (random.normal(0, spread, shape) + norm).astype(np.float32)
