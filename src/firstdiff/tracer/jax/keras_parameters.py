"""Parameters of Keras models, named by the paths under which their layers are recorded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from firstdiff.tracer.jax.keras import layer_places
from firstdiff.tracer.jax.parameters import is_recordable, record

if TYPE_CHECKING:
    from collections.abc import Iterator

    from firstdiff.traces.parameters import Kind, Parameter


def keras_parameters(model: Any) -> tuple[Parameter, ...]:
    """Every variable of a layer or model by its layer's path; untrained ones are buffers. () for anything else."""
    if not isinstance(model, keras.Layer):
        return ()
    learned = {id(v) for v in model.trainable_variables}
    found: list[Parameter] = []
    for name, variable, class_name in _variables(model):
        value = variable.value
        value = value if is_recordable(value) else np.asarray(value)
        seed = "seed" in variable.path
        kind: Kind = "parameter" if id(variable) in learned else "computed" if seed else "buffer"
        if is_recordable(value):
            found.append(record(name, value, "keras", kind, class_name))
    return tuple(found)


def _variables(model: Any) -> Iterator[tuple[str, Any, str]]:
    """(name, variable, class of its layer), each once; what no layer of the tree owns keeps Keras's own path."""
    named: dict[int, tuple[str, str]] = {}
    for path, layer, is_alias in layer_places(model):
        for variable in (
            () if is_alias else (*layer._trainable_variables, *layer._non_trainable_variables)
        ):
            name = f"{path}.{variable.name}".lstrip(".")
            named.setdefault(id(variable), (name, type(layer).__name__))
    taken: set[str] = set()
    for variable in model.variables:
        plain = variable.path.removeprefix(f"{model.name}/").replace("/", ".")
        name, class_name = named.get(id(variable), (plain, ""))
        name = plain if name in taken else name
        taken.add(name)
        yield name, variable, class_name
