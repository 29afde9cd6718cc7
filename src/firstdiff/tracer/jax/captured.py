"""What a capture of a JAX model found besides its events."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from firstdiff.tracer.jax.reap import Mode
    from firstdiff.traces.schema import Key


@dataclass(frozen=True)
class JaxCapture:
    """What a capture of a JAX model found, besides its events."""

    outputs: dict[str, np.ndarray]
    """Outputs of the last step by leaf name, on the host, in JAX's own dtypes (bfloat16 as
    ml_dtypes has it)."""
    modules: tuple[tuple[str, str], ...]
    """Every module as (path, class name): those of the model, then others that fired."""
    never_fired: tuple[str, ...]
    """Modules of the model that no event came from, selected or not."""
    aliases: dict[str, tuple[str, ...]]
    """Other paths of shared modules."""
    front_end: str
    """Front ends whose taps fired, joined by `+`; `functions` for explicit taps."""
    mode: Mode
    """`jit` or `eager`."""
    output_check: dict[str, Any]
    """`checked`, `bitwise` and `max_abs`: outputs with capture against outputs without, over all
    steps."""
    notes: tuple[str, ...]
    """What could not be recorded, and why."""
    device: str
    """`cpu`, `TPU v5e`."""
    versions: dict[str, str]
    """Versions of jax, jaxlib and the frameworks that are imported."""
    precision: dict[str, Any]
    """Every switch that changes arithmetic."""
    parameters: int
    """Number of parameter elements."""
    dtype: str
    """Dtype of most parameter elements; "" without parameters."""
    events: int = 0
    """Number of events sent to the sink."""
    steps: int = 0
    """Number of forward passes."""
    planted: tuple[Key, ...] = ()
    """Activations that were replaced; their events hold what the model computed before that."""
    refused: dict[Key, str] = field(default_factory=dict)
    """Activations that were to be replaced and could not be, with the reason."""
    functions: dict[str, str] = field(default_factory=dict)
    """Where the model's own functions that ran are defined, `file:line` by `Key.method`; empty at module level."""
