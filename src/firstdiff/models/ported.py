"""The small ports of other families than Qwen2: one linen file each, one way to build them all, right or wrong."""

from __future__ import annotations

import dataclasses
import importlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from firstdiff.models.private_copy import private_copy
from firstdiff.traces.errors import OptionError, SubjectError

if TYPE_CHECKING:
    from types import ModuleType

    from firstdiff.models.fault import Fault
    from firstdiff.models.subject import Subject

PORTED = ("gpt2", "bert", "vit", "gemma", "mixtral")
"""Families with a port; each is a folder with a file `linen.py` with a function ``build(checkpoint, **options)``."""


class Checkpoint:
    """The tensors and the configuration of one folder, as a port reads them."""

    def __init__(self, folder: str | Path, fault: Fault | None = None) -> None:
        """``fault`` may change fields of the configuration and tensors.

        Raises:
            SubjectError: there is no configuration, or no safetensors.
        """
        from firstdiff.models.qwen2.safetensors import Tensors

        path = Path(folder) / "config.json"
        try:
            self.config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise SubjectError(f"{path}: no configuration ({error}).") from error
        self.described = dict(self.config)
        self._tensors = Tensors(folder)
        self._change = fault.weights if fault is not None else None
        self.config.update(fault.config if fault is not None else {})

    def __contains__(self, name: str) -> bool:
        """Whether there is a tensor called ``name``."""
        return name in self._tensors.stored

    def read(self, name: str) -> np.ndarray:
        """The tensor ``name`` as it is stored, or as a fault changes it; float32.

        Raises:
            SubjectError: the checkpoint has none of that name.
        """
        if name not in self:
            raise SubjectError(f"{self._tensors.folder}: no tensor {name} in it.")
        read = self._tensors.read
        value = self._change(name, read) if self._change is not None else read(name)
        return np.ascontiguousarray(value, np.float32)

    def linear(self, name: str) -> dict[str, np.ndarray]:
        """Leaves of a `Dense` from a torch Linear: kernel [in, out], and the bias where there is one."""
        found = {"kernel": self.read(f"{name}.weight").T}
        if f"{name}.bias" in self:
            found["bias"] = self.read(f"{name}.bias")
        return found

    def norm(self, name: str) -> dict[str, np.ndarray]:
        """Leaves of a `LayerNorm`: scale and bias."""
        return {"scale": self.read(f"{name}.weight"), "bias": self.read(f"{name}.bias")}

    def embedding(self, name: str) -> dict[str, np.ndarray]:
        """The leaf of an `Embed`."""
        return {"embedding": self.read(f"{name}.weight")}


def subject(
    family: str,
    port: str,
    folder: str | Path,
    *,
    fault: str | Fault | None = None,
    dtype: str = "float32",
    **options: Any,
) -> Subject:
    """The ``port`` (`linen`) of the checkpoint of ``family`` in ``folder``, its parameters in ``dtype``.

    ``fault`` seeds one mistake, by its name in the catalogue or as it is: its `config`, `weights` and `functions`
    replace what the port has; functions of `ops` and of the port's own file by name. ``options`` are the port's own.

    Raises:
        SubjectError: the folder is no checkpoint of that family.
        OptionError: there is no such port or fault, or nothing of the fault's name to replace.
    """
    if port != "linen":
        raise OptionError(f"port {port!r}: no such port of {family}; there is linen.")
    fault = _found(fault, family)
    module = importlib.import_module(f"firstdiff.models.{family}.linen")
    checkpoint = Checkpoint(folder, fault)
    if checkpoint.config.get("model_type") != family:
        found = checkpoint.config.get("model_type")
        raise SubjectError(f"{folder}: a checkpoint of {found!r}, the port computes {family!r}.")
    if fault is not None and fault.functions:
        module = _with_functions(module, fault)
    made: Subject = module.build(checkpoint, **options)
    if dtype != "float32":
        made = dataclasses.replace(made, model=_cast(made.model, dtype))
    title = f"{family}.{port}" if fault is None else f"{family}.{port}:{fault.name}"
    return dataclasses.replace(made, name=title, config=checkpoint.described)


def _cast(tree: Any, dtype: str) -> Any:
    import jax

    return jax.tree.map(lambda array: array.astype(dtype), tree)


def _found(fault: str | Fault | None, family: str) -> Fault | None:
    if not isinstance(fault, str):
        return fault
    from firstdiff.models.faults import find

    found = find(fault)
    if found.family != family:
        raise OptionError(f"fault {fault!r}: one of {found.family}, the port computes {family!r}.")
    return found


def _with_functions(module: ModuleType, fault: Fault) -> ModuleType:
    """A private copy of the port in which some functions, its own or those of `ops`, are wrong."""
    copy = private_copy(module)
    ops = private_copy(importlib.import_module("firstdiff.models.qwen2.ops"))
    vars(copy)["ops"] = ops
    for name, function in fault.functions.items():
        home = next((m for m in (copy, ops) if hasattr(m, name)), None)
        if home is None:
            raise OptionError(
                f"fault {fault.name!r}: neither ops nor the port has a function {name!r}."
            )
        setattr(home, name, function)
    return copy
