"""Tiny checkpoints of several families, saved as transformers saves them, with weights that discriminate."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from transformers.utils import logging

TEXT = {
    "vocab_size": 128,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
GROUPED = TEXT | {"num_key_value_heads": 2}
FAMILIES = {
    "qwen2": ("Qwen2ForCausalLM", "Qwen2Config", GROUPED),
    "llama": ("LlamaForCausalLM", "LlamaConfig", GROUPED),
    "gemma": ("GemmaForCausalLM", "GemmaConfig", GROUPED | {"head_dim": 8}),
    "mixtral": ("MixtralForCausalLM", "MixtralConfig", GROUPED | {"num_local_experts": 4}),
    "gpt2": (
        "GPT2LMHeadModel",
        "GPT2Config",
        {
            "vocab_size": 128,
            "n_embd": 32,
            "n_layer": 2,
            "n_head": 4,
            "bos_token_id": 1,
            "eos_token_id": 1,
        },
    ),
    "bert": ("BertModel", "BertConfig", TEXT),
    "t5": (
        "T5ForConditionalGeneration",
        "T5Config",
        {"vocab_size": 128, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
        | {"decoder_start_token_id": 0},
    ),
    "vit": (
        "ViTForImageClassification",
        "ViTConfig",
        {k: v for k, v in TEXT.items() if k != "vocab_size"} | {"image_size": 32, "patch_size": 8},
    ),
}


def build(family: str) -> torch.nn.Module:
    """A model of ``family`` with non-zero biases, uneven norms and attention that attends."""
    name, config, options = FAMILIES[family]
    model = getattr(transformers, name)(getattr(transformers, config)(**options))
    rng = np.random.default_rng(0)
    with torch.no_grad():
        for path, p in model.named_parameters():
            if p.ndim == 1:
                base = 1.0 if ("norm" in path.lower() or ".ln_" in path) and "weight" in path else 0
                p.copy_(torch.tensor(base + 0.3 * rng.standard_normal(p.shape)))
            else:
                wide = any(k in path for k in ("q_proj", "k_proj", "query", "key", "c_attn"))
                p.copy_(torch.tensor((0.25 if wide else 0.12) * rng.standard_normal(p.shape)))
    return model.eval()


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory) -> Callable[[str], Path]:
    """The folder of a family's checkpoint, written once."""
    written: dict[str, Path] = {}

    def folder(family: str) -> Path:
        if family not in written:
            logging.set_verbosity_error()
            logging.disable_progress_bar()
            written[family] = tmp_path_factory.mktemp(family)
            build(family).save_pretrained(written[family])
        return written[family]

    return folder
