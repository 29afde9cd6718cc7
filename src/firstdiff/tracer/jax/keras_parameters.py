"""Parameters of Keras models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from firstdiff.tracer.jax.parameters import is_recordable, record

if TYPE_CHECKING:
    from firstdiff.traces.parameters import Kind, Parameter


def keras_parameters(model: Any) -> tuple[Parameter, ...]:
    """Every variable of a layer or model by its path; untrained ones are buffers. () for anything else."""
    if not isinstance(model, keras.Layer):
        return ()
    learned = {id(v) for v in model.trainable_variables}
    prefix = f"{model.name}/"
    found = []
    for variable in model.variables:
        value = variable.value
        value = value if is_recordable(value) else np.asarray(value)
        seed = "seed" in variable.path
        kind: Kind = "parameter" if id(variable) in learned else "computed" if seed else "buffer"
        name = variable.path.removeprefix(prefix).replace("/", ".")
        if is_recordable(value):
            found.append(record(name, value, "keras", kind))
    return tuple(found)
