"""Key-value caches of transformers.

Apart, because a cache is neither a tensor nor a container, and must not be written whole.

A cache is handed to every layer and grows with every step: recorded like any other argument, it
would fill the trace with copies of itself. So only what a step adds is recorded, once, where the
root module returns it: leaf `past_key_values.{layer}.keys`, of shape (batch, heads, new tokens,
head size). States without a token axis (convolution, recurrent) are recorded whole. Recognised by
class name, never by import.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from firstdiff.tracer.leaves import leaves

if TYPE_CHECKING:
    from collections.abc import Iterator


def is_cache(value: object) -> bool:
    """Whether ``value`` is a cache of transformers."""
    return any(
        base.__name__.endswith("Cache") and base.__module__.startswith("transformers.")
        for base in type(value).__mro__
    )


class CacheGrowth:
    """Remembers how far each cache has been recorded, and gives what is new."""

    def __init__(self) -> None:
        self._lengths: WeakKeyDictionary[Any, dict[str, int]] = WeakKeyDictionary()

    def new(self, cache: Any, prefix: str) -> Iterator[tuple[str, object]]:
        """Leaves that were added to ``cache`` since the last call, named below ``prefix``."""
        lengths = self._lengths.setdefault(cache, {})
        for name, layer, states in _layers(cache):
            length = _length(layer, states)
            before = lengths.get(name, 0)
            lengths[name] = length
            for leaf, value in leaves(states, f"{prefix}.{name}" if prefix else name):
                added = _added(leaf, value, before, length)
                if added is not None:
                    yield leaf, added


def _layers(cache: Any, prefix: str = "") -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """(name, layer object, its states) of every layer, for every layout of a cache that
    transformers has had.
    """
    for part in ("self_attention_cache", "cross_attention_cache"):
        if hasattr(cache, part):
            yield from _layers(getattr(cache, part), f"{prefix}{part}.")
    if hasattr(cache, "key_cache"):  # transformers < 4.54
        for index, (keys, values) in enumerate(
            zip(cache.key_cache, cache.value_cache, strict=True)
        ):
            yield f"{prefix}{index}", None, {"keys": keys, "values": values}
        return
    for index, layer in enumerate(getattr(cache, "layers", ())):
        states = {k: v for k, v in vars(layer).items() if not k.startswith("_")}
        yield f"{prefix}{index}", layer, states


def _length(layer: Any, states: dict[str, Any]) -> int:
    """Tokens that went into the layer so far."""
    if hasattr(layer, "get_seq_length"):
        return int(layer.get_seq_length())
    keys: Any = states.get("keys")
    return int(keys.shape[-2]) if getattr(keys, "ndim", 0) == 4 else 0


def _added(leaf: str, value: Any, before: int, length: int) -> object | None:
    """The new positions of keys or values, other states whole, None when nothing is new."""
    if leaf.rpartition(".")[2] not in ("keys", "values") or getattr(value, "ndim", 0) != 4:
        return value if getattr(value, "ndim", 0) >= 2 else None
    new = min(length - before, value.shape[-2])
    if new <= 0:
        return None
    end = min(length, value.shape[-2])  # a preallocated cache is longer than its content
    return value[..., end - new : end, :]  # type: ignore[no-any-return]  # a tensor of a framework not imported here
