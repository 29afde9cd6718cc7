"""The weight loader that all ports share: a checkpoint folder in, one JAX array per leaf out."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from firstdiff.models.qwen2.names import Name, names
from firstdiff.models.qwen2.safetensors import DTYPES, Tensors
from firstdiff.traces.errors import SubjectError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from firstdiff.models.qwen2.config import Qwen2Config

    Read: TypeAlias = Callable[[str], np.ndarray]
    Change: TypeAlias = Callable[[str, Read], np.ndarray]

Leaf: TypeAlias = "tuple[str | int, ...]"
"""Module path and leaf: `("layers", 0, "self_attn", "q_proj", "kernel")`; stacked, without the layer."""


class Weights:
    """The tensors of one checkpoint, named and laid out for a port."""

    def __init__(
        self,
        folder: str | Path,
        config: Qwen2Config,
        *,
        dtype: str | None = None,
        change: Change | None = None,
    ) -> None:
        """Open ``folder`` and check that it holds exactly the tensors of ``config``.

        ``dtype`` None keeps the stored one. ``change(name, read)`` may return another tensor than
        ``read(name)``: how a seeded conversion fault gets in.

        Raises:
            SubjectError: names are missing or unexpected, or a shape is wrong (all of them are named).
        """
        self.tensors = Tensors(folder)
        self.config = config
        self.change = change
        _check(self.tensors, config)
        stored = self.tensors.stored["model.embed_tokens.weight"].dtype
        self.dtype = dtype or stored
        if self.dtype not in ("float32", "bfloat16", "float16"):
            raise SubjectError(
                f"{folder}: dtype {self.dtype}; the ports run in float32, bfloat16, float16."
            )

    def load(self, *, stacked: bool, transpose: bool = True) -> dict[Leaf, jax.Array]:
        """Every leaf as a JAX array of its own (the file may change afterwards).

        ``transpose`` turns a kernel from Hugging Face's [out, in] to [in, out]. ``stacked`` joins the layers:
        one array [num_hidden_layers, ...] per leaf. Host memory: one leaf at a time.
        """
        groups: dict[Leaf, list[Name]] = {}
        for name in names(self.config):
            path = tuple(part for part in name.path if not (stacked and isinstance(part, int)))
            groups.setdefault((*path, name.leaf), []).append(name)
        return {leaf: self._leaf(group, stacked, transpose) for leaf, group in groups.items()}

    def _leaf(self, group: list[Name], stacked: bool, transpose: bool) -> jax.Array:
        if not (stacked and group[0].path[0] == "layers"):
            return jnp.array(self._tensor(group[0], transpose))
        first = self._tensor(group[0], transpose)
        stack = np.empty((len(group), *first.shape), dtype=first.dtype)
        for index, name in enumerate(group):
            stack[index] = first if index == 0 else self._tensor(name, transpose)
        return jnp.array(stack)

    def _tensor(self, name: Name, transpose: bool) -> np.ndarray:
        read = self.tensors.read
        tensor = self.change(name.hf, read) if self.change else read(name.hf)
        tensor = tensor.astype(DTYPES[self.dtype], copy=False)
        return tensor.T if transpose and name.leaf == "kernel" else tensor


def _check(tensors: Tensors, config: Qwen2Config) -> None:
    expected = {name.hf: name.shape for name in names(config)}
    stored = tensors.stored
    ignored = {"lm_head.weight"} if config.tie_word_embeddings else set()
    missing = sorted(expected.keys() - stored.keys())
    unexpected = sorted(stored.keys() - expected.keys() - ignored)
    # A buffer that old checkpoints carry; it follows from the configuration.
    unexpected = [name for name in unexpected if not name.endswith("rotary_emb.inv_freq")]
    if missing or unexpected:
        raise SubjectError(
            f"{tensors.folder}: {_listed('missing', missing)}{_listed('unexpected', unexpected)}"
            "is this the config.json of these weights?"
        )
    wrong = [
        f"{name} is {list(stored[name].shape)}, the config wants {list(shape)}"
        for name, shape in expected.items()
        if stored[name].shape != shape
    ]
    if wrong:
        raise SubjectError(f"{tensors.folder}: {_listed('wrong shape', wrong)}check config.json.")


def _listed(what: str, which: list[str], limit: int = 6) -> str:
    if not which:
        return ""
    more = f" and {len(which) - limit} more" if len(which) > limit else ""
    return f"{what}: {', '.join(which[:limit])}{more}; "
