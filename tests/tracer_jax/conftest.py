"""Recording into a list, and plain recomputations to compare with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
import pytest

from firstdiff.tracer.jax.capture import capture_jax

if TYPE_CHECKING:
    from firstdiff.tracer.events import Event
    from firstdiff.tracer.jax.captured import JaxCapture


@dataclass
class Recorded:
    """Events of one capture, copied as a sink must."""

    events: list[Event] = field(default_factory=list)
    values: list[np.ndarray] = field(default_factory=list)
    capture: JaxCapture | None = None

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        self.values.append(np.array(event.value))

    def names(self, *, whole: bool = False) -> list[str]:
        """`path site leaf #call`, in order; without the call's own inputs and outputs unless ``whole``."""
        keys = [event.key for event in self.events if whole or event.key.path]
        return [
            f"{key.path}:{key.site}:{key.leaf}" + (f"#{key.call}" if key.call else "")
            for key in keys
        ]

    def value(self, path: str, site: str = "output", leaf: str = "", call: int = 0) -> np.ndarray:
        found = [
            value
            for event, value in zip(self.events, self.values, strict=True)
            if (event.key.path, event.key.site, event.key.leaf, event.key.call)
            == (path, site, leaf, call)
        ]
        assert len(found) == 1, (path, site, leaf, call, self.names(whole=True))
        return found[0]

    def event(self, path: str, site: str = "output", leaf: str = "", call: int = 0) -> Event:
        wanted = (path, site, leaf, call)
        return next(
            event
            for event in self.events
            if (event.key.path, event.key.site, event.key.leaf, event.key.call) == wanted
        )

    @property
    def keys(self) -> list[Any]:
        return [event.key for event in self.events]


def _record(model: Any, call: Any, inputs: Any, **options: Any) -> Recorded:
    """Capture, with explicit taps and linen's interceptor: the other front ends have tests of their own."""
    recorded = Recorded()
    options.setdefault("framework", "linen")
    recorded.capture = capture_jax(model, call, inputs, sink=recorded, **options)
    if not options.get("values"):
        check = recorded.capture.output_check
        assert check == {"checked": True, "bitwise": True, "max_abs": 0.0}, check
    return recorded


@pytest.fixture
def record() -> Callable[..., Recorded]:
    return _record


@pytest.fixture
def weights() -> dict[str, jax.Array]:
    """Four stacked layers `up` [4, 8, 16] and `down` [4, 16, 8], and an input `x` [2, 8]: all different."""
    rng = np.random.default_rng(5)
    shapes = {"up": (4, 8, 16), "down": (4, 16, 8)}
    return {
        name: jax.numpy.asarray(rng.normal(size=shape, scale=0.5).astype(np.float32))
        for name, shape in shapes.items()
    }


@pytest.fixture
def x() -> jax.Array:
    rng = np.random.default_rng(6)
    return jax.numpy.asarray(rng.normal(size=(2, 8)).astype(np.float32))
