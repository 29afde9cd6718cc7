"""Checkpoints, what Hugging Face computes from them in each dtype, and the float64 golden run."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch.overrides import TorchFunctionMode

from firstdiff.models.checkpoint import write_checkpoint
from firstdiff.models.qwen2 import TINY

transformers.utils.logging.disable_progress_bar()


class Wide(TorchFunctionMode):
    """Turns explicit requests for float32 (norms, softmax, rotary angles) into float64."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        args = tuple(torch.float64 if a is torch.float32 else a for a in args)
        if kwargs.get("dtype") is torch.float32:
            kwargs["dtype"] = torch.float64
        if func is torch.Tensor.float:
            return args[0].double()
        return func(*args, **kwargs)


@dataclass(frozen=True)
class Reference:
    """One forward pass of Hugging Face's own model, as float64 numbers."""

    logits: np.ndarray
    hidden_states: tuple[np.ndarray, ...]


def run_reference(folder: Path, inputs: dict[str, np.ndarray], dtype: str) -> Reference:
    """``dtype`` float64 is the golden run: the float32 checkpoint computed in float64."""
    load = torch.float32 if dtype == "float64" else getattr(torch, dtype)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, attn_implementation="eager", dtype=load
    ).eval()
    tensors = {name: torch.from_numpy(value) for name, value in inputs.items()}
    with torch.no_grad():
        if dtype == "float64":
            model = model.double()
            with (
                Wide()
            ):  # double() leaves what is not stored, and what was computed in float32, as it was
                model.model.rotary_emb = type(model.model.rotary_emb)(model.config)
                out = model(**tensors, output_hidden_states=True)
        else:
            out = model(**tensors, output_hidden_states=True)
    states = tuple(state.double().numpy() for state in out.hidden_states)
    return Reference(out.logits.double().numpy(), states)


class Judge:
    """What Hugging Face computes, and how far a port is from it. Runs are kept for the session."""

    def __init__(self) -> None:
        self._runs: dict[Any, Reference] = {}

    def reference(
        self, folder: Path, inputs: dict[str, np.ndarray], dtype: str = "float32"
    ) -> Reference:
        """Hugging Face's run; ``dtype`` float64 is the golden one."""
        key = (folder, dtype, *((name, value.tobytes()) for name, value in inputs.items()))
        if key not in self._runs:
            self._runs[key] = run_reference(folder, inputs, dtype)
        return self._runs[key]

    @staticmethod
    def relative_l2(port: Any, reference: np.ndarray, inputs: dict[str, np.ndarray]) -> float:
        """‖port − reference‖₂ / ‖reference‖₂ over the real tokens."""
        ids = inputs["input_ids"]
        real = inputs.get("attention_mask", np.ones_like(ids)).astype(bool)
        wide, right = np.asarray(port, dtype=np.float64)[real], reference[real]
        return float(np.linalg.norm(wide - right) / np.linalg.norm(right))

    def ratio(
        self, port: Any, folder: Path, inputs: dict[str, np.ndarray], dtype: str = "float32"
    ) -> float:
        """Error of ``port`` against the golden run, over that of Hugging Face's own run in ``dtype``."""
        golden = self.reference(folder, inputs, "float64").logits
        own = self.reference(folder, inputs, dtype).logits
        return self.relative_l2(port, golden, inputs) / self.relative_l2(own, golden, inputs)


@pytest.fixture(scope="session")
def judge() -> Judge:
    return Judge()


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """``checkpoint(seed=..., config=..., dtype=..., shards=...)``, each written once."""

    @functools.cache
    def write(seed: int = 0, **options: Any) -> Path:
        return write_checkpoint(tmp_path_factory.mktemp("qwen2"), seed=seed, **options)

    return write


@pytest.fixture(scope="session")
def tiny(checkpoint: Callable[..., Path]) -> Path:
    return checkpoint(config=TINY)
