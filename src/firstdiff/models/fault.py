"""A seeded fault, as data. Apart, because the tables that list faults all need it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy as np


@dataclass(frozen=True)
class Fault:
    """One mistake, and where a differ has to find it. Paths as Hugging Face spells them, without `model.`."""

    name: str
    """How the command line names it."""
    sentence: str
    """What the port does wrong, in words."""
    cause: str
    """The class of mistake that an explanation should name."""
    module: str
    """The module whose own computation, or whose code between its children, is wrong first."""
    activation: str
    """Path of the first module-level activation with a wrong value."""
    site: str = "output"
    """`input` where the mistake lies between modules and shows at the next one's input; else `output`."""
    harmless: bool = False
    """Whether the logits stay right: the fault shows at ``activation`` and heals."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the configuration that the port has wrong."""
    weights: Callable[[str, Callable[[str], np.ndarray]], np.ndarray] | None = None
    """``weights(name, read)``: what the port ends up with for the tensor ``name``; ``read`` gives the right ones."""
    functions: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    """Functions of `ops` that the port has wrong, by name."""
