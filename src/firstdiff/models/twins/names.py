"""The port's names for the reference's paths: the same, a published library's, none that tell, or lies."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from zlib import crc32

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

    from firstdiff.models.twins.entry import Entry
    from firstdiff.models.twins.rules import Rules

SCHEMES: dict[str, dict[str, str]] = {
    "same": {},
    "meta": {
        "self_attn": "attention", "q_proj": "wq", "k_proj": "wk", "v_proj": "wv", "o_proj": "wo", "mlp": "feed_forward",
        "gate_proj": "w1", "up_proj": "w3", "down_proj": "w2", "input_layernorm": "attention_norm",
        "post_attention_layernorm": "ffn_norm", "embed_tokens": "tok_embeddings", "lm_head": "output",
    },
    "gemma": {
        "self_attn": "attn", "q_proj": "q_einsum", "o_proj": "attn_vec_einsum", "gate_up_proj": "gating_einsum",
        "down_proj": "linear", "input_layernorm": "pre_attention_norm", "post_attention_layernorm": "pre_ffw_norm",
        "embed_tokens": "embedder", "norm": "final_norm", "layers": "layer",
    },
    "flax": {"layers": "layers_", "h": "h_", "layer": "layer_"},
}  # fmt: skip
"""Words of the port by words of the reference."""


def renamer(
    entries: list[Entry], rules: Rules, random: np.random.Generator
) -> Callable[[str], str]:
    """The port's path of a reference path; opaque names are drawn by ``random``."""
    words = sorted({part for e in entries for part in e.path.split(".") if not part.isdigit()})
    if rules.names == "opaque":
        table = {
            word: f"m{i}" for i, word in zip(random.permutation(len(words)), words, strict=True)
        }
    elif rules.names == "lying":
        table = _lies(words)
    else:
        table = SCHEMES[rules.names]

    def other(part: str) -> str:
        """A word that names no parameter: an activation function, a dropout."""
        hide = rules.names == "opaque" and part and not part.isdigit()
        return f"n{crc32(part.encode()) % 997}" if hide else part

    def rename(path: str) -> str:
        text = ".".join(table.get(part) or other(part) for part in path.split("."))
        return re.sub(r"_\.(\d+)", r"_\1", text)

    return rename


def _lies(words: list[str]) -> dict[str, str]:
    """Names as a published Mixtral port and others have them: not the reference's, and each says something else."""
    lies = {
        "gate_proj": "up", "up_proj": "gate", "down_proj": "wo", "o_proj": "out", "input_layernorm": "ffn_norm",
        "post_attention_layernorm": "attn_norm", "q_proj": "key", "k_proj": "query", "query": "wk", "key": "wq",
    }  # fmt: skip
    return {word: lies[word] for word in words if word in lies}
