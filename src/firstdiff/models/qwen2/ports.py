"""The ports by name, right or with a seeded fault. Apart, because it imports a framework only when asked for it."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
from typing import TYPE_CHECKING

from firstdiff.models.qwen2.config import Qwen2Config
from firstdiff.traces.errors import OptionError

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

    from firstdiff.models.faults import Fault
    from firstdiff.models.subject import Subject

PORTS = ("linen", "nnx", "equinox", "haiku", "function")
"""Each is a file of this folder with a function ``build``."""


def subject(
    port: str,
    folder: str | Path,
    *,
    fault: str | Fault | None = None,
    scan: bool = False,
    dtype: str | None = "float32",
    remat: bool = False,
) -> Subject:
    """A port of the Qwen2 checkpoint in ``folder``, called with `input_ids`, `attention_mask`, `position_ids`.

    ``fault`` seeds one mistake of `firstdiff.models.faults`; ``scan`` stacks the layers, ``remat`` recomputes
    them in a backward pass, where the port can. ``dtype`` None keeps that of the checkpoint.

    Raises:
        SubjectError: the folder is no complete Qwen2 checkpoint, or asks for what the ports lack.
        OptionError: there is no such port or fault, or the port has no such variant.
    """
    if port not in PORTS:
        raise OptionError(f"port {port!r}: no such port; there are {', '.join(PORTS)}.")
    from firstdiff.models.qwen2.weights import Weights

    config = Qwen2Config.from_hf(folder)
    module = importlib.import_module(f"firstdiff.models.qwen2.{port}")
    if fault is None:
        weights = Weights(folder, config, dtype=dtype)
    else:
        wrong = _fault(fault)
        weights = Weights(folder, config, dtype=dtype, change=wrong.weights)
        weights.config = dataclasses.replace(config, **wrong.config)
        module = _with_functions(module, wrong)
    made: Subject = module.build(weights, scan=scan, remat=remat)
    described = config.to_hf(dtype=weights.dtype)
    return dataclasses.replace(made, name=_title(port, fault), config=described)


def _fault(fault: str | Fault) -> Fault:
    if not isinstance(fault, str):
        return fault
    from firstdiff.models.faults import find

    return find(fault)


def _title(port: str, fault: str | Fault | None) -> str:
    return f"qwen2.{port}" if fault is None else f"qwen2.{port}:{_fault(fault).name}"


def _with_functions(module: ModuleType, fault: Fault) -> ModuleType:
    """A private copy of the port in which some functions of `ops` are wrong.

    Copies, not patches: the right port stays right, whatever is traced, cached or threaded meanwhile.
    """
    if not fault.functions:
        return module
    ops = _copy(importlib.import_module("firstdiff.models.qwen2.ops"))
    for name, function in fault.functions.items():
        if not hasattr(ops, name):
            raise OptionError(f"fault {fault.name!r}: ops has no function {name!r}.")
        setattr(ops, name, function)
    copy = _copy(module)
    vars(copy)["ops"] = ops
    return copy


def _copy(module: ModuleType) -> ModuleType:
    """A second, unregistered execution of ``module``: same file, same name, own globals."""
    spec = module.__spec__
    assert spec is not None
    assert spec.loader is not None
    copy = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(copy)
    return copy
