"""A tokenizer of bytes for the tiny checkpoints: token 0 pads, token n + 1 is byte n. Apart from the weights."""

from __future__ import annotations

from typing import Any

SIZE = 257
"""Tokens: padding and 256 bytes."""
PAD = "<|pad|>"


def tokenizer_files() -> dict[str, Any]:
    """`tokenizer.json` and `tokenizer_config.json`, as Hugging Face's AutoTokenizer reads them."""
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    vocabulary = {PAD: 0} | {_visible(byte): byte + 1 for byte in range(256)}
    special = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": 0, "content": PAD, "special": True, **special}],
        "normalizer": None,
        "pre_tokenizer": {**byte_level, "use_regex": False},
        "post_processor": None,
        "decoder": {**byte_level, "use_regex": False},
        "model": {"type": "BPE", "vocab": vocabulary, "merges": []},
    }
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": PAD,
        "padding_side": "left",
        "model_max_length": 32768,
        "clean_up_tokenization_spaces": False,
    }
    return {"tokenizer.json": tokenizer, "tokenizer_config.json": config}


def _visible(byte: int) -> str:
    """GPT-2's printable stand-in for a byte: itself where printable, else shifted above 255."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    if byte in printable:
        return chr(byte)
    return chr(256 + [b for b in range(256) if b not in printable].index(byte))
