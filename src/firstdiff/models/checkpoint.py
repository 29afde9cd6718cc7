"""Tiny Qwen2 checkpoints whose random weights *discriminate*: a wrong port cannot pass on them by luck.

Hugging Face's default initialisation hides real bugs: zero biases hide a missing bias, unit norms hide a wrong
scale, small projections make attention near-uniform, so that a wrong rotary embedding looks like rounding.
Written with numpy alone; also at the published sizes, a block of one tensor at a time.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from firstdiff.models.qwen2 import safetensors
from firstdiff.models.qwen2.config import PUBLISHED, TINY, Qwen2Config
from firstdiff.models.qwen2.names import Name, names
from firstdiff.models.qwen2.tokenizer import SIZE, tokenizer_files
from firstdiff.traces.errors import OptionError

if TYPE_CHECKING:
    from collections.abc import Iterator

BLOCK = 1 << 24
"""Elements drawn at a time, at most, so that memory stays bounded at any size."""


def write_checkpoint(
    folder: str | Path,
    *,
    seed: int = 0,
    config: Qwen2Config | str = TINY,
    dtype: str = "float32",
    shards: int = 1,
) -> Path:
    """Write `config.json`, safetensors and a byte tokenizer that Hugging Face loads as they are; returns the folder.

    ``config`` is a configuration or a published size (`0.5B`). The same seed gives the same weights, whatever
    the number of ``shards``; a narrower ``dtype`` gives the same weights rounded.
    """
    config = _resolve(config)
    if dtype not in ("float32", "bfloat16", "float16"):
        raise OptionError(f"dtype {dtype!r}: a checkpoint holds float32, bfloat16 or float16.")
    if shards < 1:
        raise OptionError(f"shards {shards}: at least one file is needed.")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(folder / "config.json", config.to_hf(dtype=dtype))
    if config.vocab_size >= SIZE:
        for file, value in tokenizer_files().items():
            _write_json(folder / file, value)
    every = names(config)
    files = _split(every, shards)
    for file, part in files.items():
        shapes = {name.hf: name.shape for name in part}
        blocks = (block for name in part for block in _draw(name, seed))
        safetensors.write(folder / file, shapes, dtype, blocks)
    if shards > 1:
        where = {name.hf: file for file, part in files.items() for name in part}
        _write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": where})
    return folder


def discriminating_inputs(
    config: Qwen2Config = TINY,
    seed: int = 0,
    *,
    tokens: int = 48,
    padding: tuple[int, ...] = (0, 6),
) -> dict[str, np.ndarray]:
    """`input_ids` and `attention_mask`, int64 [len(padding), tokens]; row i is left-padded by padding[i].

    Long enough for rotary and mask errors to show, and padded unequally, so that no padding error hides.
    """
    random = np.random.default_rng([seed, 1])
    ids = random.integers(1, config.vocab_size, (len(padding), tokens), dtype=np.int64)
    real = np.arange(tokens) >= np.asarray(padding)[:, None]  # [rows, tokens]
    return {"input_ids": np.where(real, ids, 0), "attention_mask": real.astype(np.int64)}


def _resolve(config: Qwen2Config | str) -> Qwen2Config:
    if isinstance(config, Qwen2Config):
        return config
    if config not in PUBLISHED:
        raise OptionError(f"size {config!r}: Qwen2.5 was published in {', '.join(PUBLISHED)}.")
    return PUBLISHED[config]


def _split(every: tuple[Name, ...], shards: int) -> dict[str, list[Name]]:
    if shards == 1:
        return {"model.safetensors": list(every)}
    if shards > len(every):
        raise OptionError(f"shards {shards}: the model has {len(every)} tensors only.")
    bounds = [round(i * len(every) / shards) for i in range(shards + 1)]
    return {
        f"model-{i + 1:05}-of-{shards:05}.safetensors": list(every[bounds[i] : bounds[i + 1]])
        for i in range(shards)
    }


def _draw(name: Name, seed: int) -> Iterator[np.ndarray]:
    """The values of one tensor, float32, in blocks of whole rows; seeded by the tensor's own name."""
    random = np.random.default_rng([seed, *name.hf.encode()])
    if len(name.shape) == 1:
        yield _vector(name, random)
        return
    rows, columns = name.shape
    step = max(1, BLOCK // columns)
    for start in range(0, rows, step):
        count = min(step, rows - start)
        yield random.standard_normal((count, columns), dtype=np.float32) * _spread(name)


def _vector(name: Name, random: np.random.Generator) -> np.ndarray:
    """Norm scales around one with outliers; biases that matter, those of the keys with outliers, as trained."""
    size = name.shape[0]
    if name.leaf == "scale":
        values = np.exp(random.normal(0, 0.3, size))
        values[random.integers(0, size, max(1, size // 256))] *= 4
    else:
        of_values = name.path[-1] == "v_proj"
        values = random.normal(0, 0.1 if of_values else 0.5, size)
        if name.path[-1] == "k_proj":
            values[random.integers(0, size, 2)] *= 6
    return values.astype(np.float32)


def _spread(name: Name) -> np.float32:
    """Standard deviation of a kernel.

    Queries and keys are larger than the rest, so that attention is far from uniform; not larger still, because
    a saturated softmax amplifies rounding in every layer (24 layers in bfloat16: error 0.04 of the logits at
    gain 1.25, 0.25 at gain 2).
    """
    module = str(name.path[-1])
    if module in ("embed_tokens", "lm_head"):
        return np.float32(0.02)
    gain = 1.25 if module in ("q_proj", "k_proj") else 0.96
    return np.float32(gain / np.sqrt(name.shape[1]))


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")
