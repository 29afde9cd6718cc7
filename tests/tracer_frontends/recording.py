"""One capture as a dict."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from firstdiff.tracer.jax.capture import capture_jax
from firstdiff.traces.dtypes import widen

if TYPE_CHECKING:
    from firstdiff.tracer.events import Event
    from firstdiff.tracer.jax.captured import JaxCapture


@dataclass
class Recorded:
    """Values by (path, site, leaf, method, call, step)."""

    values: dict[tuple[Any, ...], np.ndarray] = field(default_factory=dict)
    classes: dict[str, str] = field(default_factory=dict)
    axes: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    capture: JaxCapture | None = None

    def __call__(self, event: Event) -> None:
        key = event.key
        name = (key.path, key.site, key.leaf, key.method, key.call, key.step)
        assert name not in self.values
        self.values[name] = widen(np.array(event.value), event.dtype)
        self.classes[key.path] = event.class_name
        self.axes[key.path] = event.axes

    def value(
        self,
        path: str,
        site: str = "output",
        leaf: str | None = "",
        method: str = "__call__",
        call: int = 0,
        step: int = 0,
    ) -> np.ndarray:
        """The value of that name; with ``leaf`` None the only one at that place."""
        if leaf is not None:
            return self.values[path, site, leaf, method, call, step]
        place = (path, site, method, call, step)
        (found,) = (v for k, v in self.values.items() if (k[0], k[1], *k[3:]) == place)
        return found

    @property
    def names(self) -> list[str]:
        """`path.method:leaf` of outputs and `path.method(leaf)` of inputs, with `#call` from the
        second call on."""
        found = []
        for path, site, leaf, method, call, _step in self.values:
            dotted = path if method == "__call__" else f"{path}.{method}"
            place = f"({leaf})" if site == "input" else f":{leaf}"
            found.append(dotted + place + (f"#{call}" if call else ""))
        return found


def record(
    model: Any,
    call: Callable[..., Any] | None,
    inputs: Mapping[str, Any] | Sequence[Mapping[str, Any]],
    **options: Any,
) -> Recorded:
    """Capture ``call(model, **inputs)`` into a `Recorded`."""
    recorded = Recorded()
    recorded.capture = capture_jax(model, call, inputs, sink=recorded, **options)
    return recorded
