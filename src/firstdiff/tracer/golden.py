"""A torch model run in another precision than its own: the float64 golden run, and the port's
dtype.

Apart, because `model.double()` is no float64 run: norms, softmax and rotary embeddings ask for
float32 by name, and rotary frequencies were rounded when they were made. And because
`model.to(bfloat16)` is no bfloat16 model: it rounds those frequencies again, which
`from_pretrained(dtype=...)` does not.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

import torch
from torch import nn

from firstdiff.tracer.caches import is_cache
from firstdiff.tracer.conversion import ConvertedParameters
from firstdiff.tracer.float64 import float64
from firstdiff.tracer.state import untouched
from firstdiff.tracer.switches import model_device
from firstdiff.traces.errors import SubjectError

_SAME_FREQUENCIES = 1e-5
"""Relative difference up to which a rebuilt buffer is the same table, only rounded less."""


@contextmanager
def in_precision(model: nn.Module, dtype: str, *, sparing: bool = False) -> Iterator[None]:
    """Inside, ``model`` computes in ``dtype`` (`float64`, `float32`, `bfloat16`, `float16`),
    gradients off.

    float64 is float64 throughout; another dtype is what loading the weights with that dtype gives.
    Leaving puts the very tensors back that were there: parameters, buffers, attributes, random
    state. Needs memory for one more copy of the weights, unless ``sparing``: then a parameter is
    converted where a torch function uses it, which code outside of torch's functions does not see.
    """
    target: torch.dtype = getattr(torch, dtype)
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(untouched(model))
        if not sparing:
            stack.enter_context(_parameters_as(model, target))
        for device in {d.partition(":")[0] for d in model_device(model).split(",")}:
            if torch.amp.is_autocast_available(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        if target is torch.float64:
            stack.enter_context(float64())
            _widen_state(model)
        else:
            _cast_buffers(model, target)
        if sparing:
            stack.enter_context(ConvertedParameters(_targets(model, target), cast))
        yield


Result = TypeVar("Result")


def run_in(model: nn.Module, dtype: str, work: Callable[[], Result]) -> Result:
    """``work()`` with ``model`` in ``dtype``: sparing memory, and where that fails with a copy of
    the weights. Then ``work`` is called twice, so it makes its own sinks.
    """
    try:
        with in_precision(model, dtype, sparing=True):
            return work()
    except (RuntimeError, TypeError, SubjectError):
        with in_precision(model, dtype):
            return work()


@contextmanager
def _parameters_as(model: nn.Module, target: torch.dtype) -> Iterator[None]:
    """Swap the data of every floating-point parameter; the Parameter objects stay, so ties hold."""
    originals: list[tuple[nn.Parameter, torch.Tensor]] = []
    try:
        for parameter, dtype in _targets(model, target).items():
            originals.append((parameter, parameter.data))
            parameter.data = cast(parameter.data, dtype)
        yield
    finally:
        for parameter, data in originals:
            parameter.data = data


def _targets(model: nn.Module, target: torch.dtype) -> dict[nn.Parameter, torch.dtype]:
    """The dtype that each floating-point parameter gets."""
    kept = _kept_in_float32(model, target)
    pairs = torch.complex128 if target is torch.float64 else torch.complex64
    return {
        parameter: pairs if parameter.is_complex() else torch.float32 if kept(name) else target
        for name, parameter in model.named_parameters()
        if parameter.is_floating_point() or parameter.is_complex()
    }


def _kept_in_float32(model: nn.Module, target: torch.dtype) -> Callable[[str], bool]:
    """Which parameters transformers keeps in float32 when it loads ``model`` as ``target``."""
    names: set[str] = set()
    if target in (torch.float16, torch.bfloat16):
        names |= set(getattr(model, "_keep_in_fp32_modules_strict", None) or ())
    if target is torch.float16:
        names |= set(getattr(model, "_keep_in_fp32_modules", None) or ())
    return lambda path: any(f".{name}." in f".{path}." for name in names)


def cast(tensor: torch.Tensor, target: torch.dtype) -> torch.Tensor:
    """``tensor`` as ``target`` (complex as its complex kind), values beyond its range at its ends,
    not infinite.

    A mask made with the lowest float32 would be -inf in bfloat16, and rows of it NaN.
    """
    if tensor.is_complex():
        wide = target in (torch.float64, torch.complex128)
        return tensor.to(torch.complex128 if wide else torch.complex64)
    if not tensor.is_floating_point():
        return tensor
    limits, own = torch.finfo(target), torch.finfo(tensor.dtype)
    if own.max <= limits.max:
        return tensor.to(target)
    if tensor.numel():
        low, high = torch.aminmax(tensor)
        if limits.min <= low <= high <= limits.max:
            return tensor.to(target)
    inside = tensor.clamp(limits.min, limits.max).to(target)
    return torch.where(tensor.isinf(), tensor.to(target), inside)


def _cast_buffers(model: nn.Module, target: torch.dtype) -> None:
    """Buffers as loading does it: those of the checkpoint in ``target``, others never rounded
    further.
    """
    for module in model.modules():
        for name, buffer in module._buffers.items():
            if buffer is None or not buffer.is_floating_point():
                continue
            loaded = name not in module._non_persistent_buffers_set
            if loaded or torch.finfo(buffer.dtype).eps > torch.finfo(target).eps:
                module._buffers[name] = cast(buffer, target)


def _widen_state(model: nn.Module) -> None:
    """Buffers and plain tensor attributes in float64; tables that a constructor makes are made
    again.
    """
    for module in model.modules():
        for holder in (module._buffers, module.__dict__):
            for name, value in holder.items():
                if isinstance(value, torch.Tensor):
                    holder[name] = cast(value, torch.float64)
        for name, table in _rebuilt_tables(module).items():
            module._buffers[name] = table


def _rebuilt_tables(module: nn.Module) -> dict[str, torch.Tensor]:
    """Buffers of a parameterless module (rotary frequencies, sinusoids) made again in float64.

    The module's class is constructed anew from its own attributes (`config`, `dim`, `base`). A
    table counts only when it agrees with the module's own up to rounding: a trained or edited one
    is kept.
    """
    tables = {k: b for k, b in module._buffers.items() if b is not None and b.is_floating_point()}
    if not tables or next(module.parameters(), None) is not None or next(module.children(), None):
        return {}
    arguments = _constructor_arguments(module)
    if arguments is None:
        return {}
    try:
        fresh = type(module)(**arguments)
    except Exception:  # the user's constructor: the rounded table is still right to float32
        return {}
    found = {}
    for name, old in tables.items():
        new = fresh._buffers.get(name)
        if new is not None and new.shape == old.shape and new.dtype is torch.float64:
            new = new.to(old.device)
            if torch.allclose(new, old, rtol=_SAME_FREQUENCIES, atol=0.0):
                found[name] = new
    return found


def _constructor_arguments(module: nn.Module) -> dict[str, Any] | None:
    """Arguments for the class of ``module``, read from its attributes; None when a required one is
    missing.
    """
    arguments = {}
    for name, parameter in inspect.signature(type(module).__init__).parameters.items():
        if name == "self" or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        if hasattr(module, name):
            arguments[name] = getattr(module, name)
        elif parameter.default is parameter.empty:
            return None
    return arguments


def inputs_as(inputs: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """A copy of the inputs with floating-point tensors in ``dtype``, inside containers and caches
    too.
    """
    target: torch.dtype = getattr(torch, dtype)
    return {name: _input_as(value, target) for name, value in inputs.items()}


def _input_as(value: Any, target: torch.dtype) -> Any:
    if isinstance(value, torch.Tensor):
        return cast(value.detach().clone(), target)
    if type(value) in (list, tuple):
        return type(value)(_input_as(member, target) for member in value)
    if type(value) is dict:
        return {key: _input_as(member, target) for key, member in value.items()}
    value = copy.deepcopy(value)
    if is_cache(value):
        for layer in getattr(value, "layers", ()):
            for name, state in vars(layer).items():
                if isinstance(state, torch.Tensor):
                    setattr(layer, name, cast(state, target))
    return value
