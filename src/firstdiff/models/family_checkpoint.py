"""The tiny checkpoints of `families` as folders that Hugging Face loads as they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from firstdiff.models.families import config_of, family
from firstdiff.models.qwen2 import safetensors

if TYPE_CHECKING:
    import numpy as np


def write_family(name: str, folder: str | Path, *, seed: int = 0) -> Path:
    """Write `config.json` and `model.safetensors` of the tiny ``name`` of `families.FAMILIES`; returns the folder.

    The values are random and discriminate; the same ``seed`` gives the same ones.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config, architecture = config_of(name)
    described = {**config.to_dict(), "architectures": [architecture], "dtype": "float32"}
    text = json.dumps(described, indent=2, default=str)
    (folder / "config.json").write_text(text + "\n", encoding="utf-8")
    values: dict[str, np.ndarray] = dict(family(name, seed).values)
    shapes = {key: value.shape for key, value in values.items()}
    blocks = (value.reshape(-1) for value in values.values())
    safetensors.write(folder / "model.safetensors", shapes, "float32", blocks)
    return folder
