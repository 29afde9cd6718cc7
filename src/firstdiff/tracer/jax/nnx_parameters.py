"""Parameters of NNX modules and states."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flax import nnx

from firstdiff.tracer.jax.parameters import is_recordable, record

if TYPE_CHECKING:
    from firstdiff.traces.parameters import Kind, Parameter


def nnx_parameters(model: Any) -> tuple[Parameter, ...]:
    """Every variable of a module or a state; those that are no `nnx.Param` are buffers. () for anything else."""
    if isinstance(model, nnx.State):
        return _of_state(model, {})
    if not isinstance(model, nnx.Module):
        return ()
    classes = {
        ".".join(map(str, path)): type(module).__name__ for path, module in nnx.iter_modules(model)
    }
    return _of_state(nnx.state(model), classes)


def _of_state(state: Any, classes: dict[str, str]) -> tuple[Parameter, ...]:
    found = []
    for path, variable in nnx.to_flat_state(state):
        value = variable.get_value() if hasattr(variable, "get_value") else variable
        if not is_recordable(value):
            continue
        owner = ".".join(map(str, path[:-1]))
        learned = isinstance(variable, nnx.Param) or getattr(variable, "type", None) is nnx.Param
        kind: Kind = "parameter" if learned else "buffer"
        if isinstance(variable, nnx.RngState | nnx.Cache):
            kind = "computed"
        found.append(record(".".join(map(str, path)), value, "nnx", kind, classes.get(owner, "")))
    return tuple(found)
