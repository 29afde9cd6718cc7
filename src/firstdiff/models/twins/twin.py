"""A twin: its parameters, and the way of making one by rule."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from firstdiff.models.twins.entry import Entry
from firstdiff.models.twins.fusion import fused, stacked
from firstdiff.models.twins.layout import changed, laid_out, single_experts, unfused
from firstdiff.models.twins.names import renamer
from firstdiff.traces.dtypes import storage
from firstdiff.traces.parameters import Parameter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from firstdiff.models.twins.rules import Geometry, Kind, Rules


@dataclass
class Twin:
    """A port of parameters alone."""

    values: dict[str, np.ndarray]
    """By name; bfloat16 as an ml_dtypes array."""
    sources: dict[str, tuple[str, ...]]
    """Reference parameters by port name; for a stack, all layers in order."""
    framework: str = ""
    """Whose conventions it follows."""
    rename: Callable[[str], str] = str
    """Port path of a reference path."""

    def parameters(self) -> list[Parameter]:
        """As an extractor would give them."""
        return parameters(self.values, self.framework)

    def is_whole(self, name: str) -> bool:
        """Whether a port parameter was made of one reference parameter, or of one in each layer."""
        templates = {re.sub(r"\.\d+\.", ".*.", source) for source in self.sources[name]}
        alone = sum(self.sources[name][0] in sources for sources in self.sources.values()) == 1
        return len(templates) == 1 and alone

    def place(self, name: str, path: str) -> str:
        """Module path of a port parameter as a trace spells it for the layer of the reference's ``path``."""
        owner = name.rpartition(".")[0]
        index = re.search(r"\.(\d+)(?:\.|$)", path)
        if (
            index is None
            or len(self.sources[name]) == 1
            or re.search(r"(?:^|\.)\d+(?:\.|$)", owner)
        ):
            return owner
        home = self.rename(path[: index.end(1)])
        stem = re.sub(r"[._]?\d+$", "", home).rstrip("_")
        return home + owner[len(stem) :].lstrip("_") if owner.startswith(stem) else owner


def parameters(
    values: Mapping[str, np.ndarray], framework: str = "", classes: Mapping[str, str] | None = None
) -> list[Parameter]:
    """Parameter records of arrays in memory; ``classes`` by module path."""
    found = []
    for name, value in values.items():
        stored, dtype = storage(value)
        kind = (classes or {}).get(name.rpartition(".")[0], "")
        found.append(Parameter(name, value.shape, dtype, _constant(stored), kind, framework))
    return found


def twin(
    reference: Mapping[str, np.ndarray],
    kinds: Callable[[str, np.ndarray], Kind],
    geometry: Geometry,
    rules: Rules,
    seed: int = 0,
) -> Twin:
    """A right port of ``reference`` by ``rules``."""
    entries: Iterable[Entry] = (
        Entry(name.rpartition(".")[0], name.rpartition(".")[2], value, kinds(name, value), (name,))
        for name, value in reference.items()
    )
    steps: list[Callable[[Entry], Iterator[Entry]]] = [
        lambda e: unfused(e, rules),
        lambda e: single_experts(e, rules),
        lambda e: changed(e, rules, geometry),
    ]
    for step in steps:
        entries = [new for entry in entries for new in step(entry)]
    done = fused(list(entries), rules, geometry)
    done = [laid_out(entry, rules, geometry) for entry in done]
    if rules.experts == "batched":
        done = stacked(done, 0, r"experts\.(\d+)\.")
    if rules.stack is not None:
        done = stacked(done, rules.stack, r"(?:layers|layer|h|blocks)\.(\d+)\.")
    return _named(done, rules, seed)


def _named(entries: list[Entry], rules: Rules, seed: int) -> Twin:
    random = np.random.default_rng([seed, 7])
    if rules.shuffle:
        entries = [entries[i] for i in random.permutation(len(entries))]
    rename = renamer(entries, rules, random)
    values, sources = {}, {}
    for entry in entries:
        name = f"{rename(entry.path)}.{entry.leaf}".lstrip(".")
        values[name] = _cast(np.ascontiguousarray(entry.value), rules.dtype)
        sources[name] = entry.sources
    return Twin(values, sources, rules.framework, rename)


def _cast(value: np.ndarray, dtype: str) -> np.ndarray:
    if dtype == "bfloat16":
        import ml_dtypes

        return value.astype(ml_dtypes.bfloat16)
    return value.astype(dtype)


def _constant(value: np.ndarray) -> Callable[[], np.ndarray]:
    return lambda: value
