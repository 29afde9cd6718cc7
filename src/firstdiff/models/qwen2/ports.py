"""The ports by name, right or with a seeded fault. Apart, because it imports a framework only when asked for it."""

from __future__ import annotations

import dataclasses
import importlib
from typing import TYPE_CHECKING

from firstdiff.models.private_copy import private_copy
from firstdiff.models.qwen2.config import Qwen2Config
from firstdiff.traces.errors import OptionError

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

    from firstdiff.models.faults import Fault
    from firstdiff.models.subject import Subject
    from firstdiff.models.variants import Variant

PORTS = ("linen", "nnx", "equinox", "haiku", "function")
"""Each is a file of this folder with a function ``build``."""
UNSTACKED = ("keras",)
"""More of them, whose layers are a list and nothing else."""


def subject(
    port: str,
    folder: str | Path,
    *,
    fault: str | Fault | None = None,
    variant: str | Variant | None = None,
    scan: bool = False,
    dtype: str | None = "float32",
    remat: bool = False,
) -> Subject:
    """A port of the Qwen2 checkpoint in ``folder``, called with `input_ids`, `attention_mask`, `position_ids`.

    ``fault`` seeds one mistake of `firstdiff.models.faults`, ``variant`` takes another right way of
    `firstdiff.models.variants` (not both); ``scan`` stacks the layers, ``remat`` recomputes them in a backward pass,
    where the port can. ``dtype`` None keeps that of the checkpoint.

    Raises:
        SubjectError: the folder is no complete Qwen2 checkpoint, or asks for what the ports lack.
        OptionError: there is no such port, fault or variant, or the port cannot be varied so.
    """
    every = (*PORTS, *UNSTACKED)
    if port not in every:
        raise OptionError(f"port {port!r}: no such port; there are {', '.join(every)}.")
    if port in UNSTACKED and (scan or remat):
        raise OptionError(f"port {port!r}: its layers are neither stacked nor recomputed.")
    from firstdiff.models.qwen2.weights import Weights

    config = Qwen2Config.from_hf(folder)
    module = importlib.import_module(f"firstdiff.models.qwen2.{port}")
    changed = _changed(fault, variant)
    if changed is None:
        weights = Weights(folder, config, dtype=dtype)
    else:
        weights = Weights(folder, config, dtype=dtype, change=changed.weights)
        weights.config = dataclasses.replace(config, **getattr(changed, "config", {}))
        module = _with_functions(module, changed)
    if variant is not None and (layers := _variant(variant).layers):
        module = _with_layers(module, port, dict(layers))
    made: Subject = module.build(weights, scan=scan, remat=remat)
    described = config.to_hf(dtype=weights.dtype)
    return dataclasses.replace(made, name=_title(port, changed), config=described)


def _changed(fault: str | Fault | None, variant: str | Variant | None) -> Fault | Variant | None:
    if fault is not None and variant is not None:
        raise OptionError("fault and variant: a port is wrong, or right in another way; give one.")
    if fault is not None:
        return _fault(fault)
    return None if variant is None else _variant(variant)


def _variant(variant: str | Variant) -> Variant:
    if not isinstance(variant, str):
        return variant
    from firstdiff.models.variants import find_variant

    return find_variant(variant)


def _with_layers(module: ModuleType, port: str, layers: dict[str, str]) -> ModuleType:
    """A private copy of the linen port with other layers in the place of linen's own."""
    if port != "linen":
        raise OptionError(f"port {port!r}: only the linen port takes other layers.")
    from firstdiff.models.qwen2 import right_layers

    copy = private_copy(module)
    chosen = {kind: getattr(right_layers, name) for kind, name in layers.items()}
    vars(copy).update(ops=vars(module)["ops"], nn=right_layers.linen_with(chosen))
    return copy


def _fault(fault: str | Fault) -> Fault:
    if isinstance(fault, str):
        from firstdiff.models.faults import find

        fault = find(fault)
    if fault.family != "qwen2":
        raise OptionError(f"fault {fault.name!r}: one of {fault.family}, the port computes qwen2.")
    return fault


def _title(port: str, changed: Fault | Variant | None) -> str:
    return f"qwen2.{port}" if changed is None else f"qwen2.{port}:{changed.name}"


def _with_functions(module: ModuleType, fault: Fault | Variant) -> ModuleType:
    """A private copy of the port in which some functions of `ops` are others.

    Copies, not patches: the right port stays right, whatever is traced, cached or threaded meanwhile.
    """
    if not fault.functions:
        return module
    ops = private_copy(importlib.import_module("firstdiff.models.qwen2.ops"))
    for name, function in fault.functions.items():
        if not hasattr(ops, name):
            raise OptionError(f"fault {fault.name!r}: ops has no function {name!r}.")
        setattr(ops, name, function)
    copy = private_copy(module)
    vars(copy)["ops"] = ops
    return copy
