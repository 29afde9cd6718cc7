"""What a port does to one parameter: cut, permute, scale, transpose, rename its leaf."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from firstdiff.models.twins.entry import Entry

if TYPE_CHECKING:
    from collections.abc import Iterator

    from firstdiff.models.twins.rules import Geometry, Rules


def unfused(entry: Entry, rules: Rules) -> Iterator[Entry]:
    """GPT-2's fused c_attn, cut apart unless the port fuses flat too."""
    if not entry.path.endswith("attn.c_attn") or rules.qkv == "flat":
        yield entry
        return
    cut = np.split(entry.value, 3, axis=-1)
    for part, value in zip("qkv", cut, strict=True):
        path = entry.path.replace("c_attn", f"{part}_proj")
        if entry.kind == "conv1d":
            yield replace(entry, path=path, value=value.T, kind="linear")
        else:
            yield replace(entry, path=path, value=value)


def single_experts(entry: Entry, rules: Rules) -> Iterator[Entry]:
    """Batched experts [E, out, in], as transformers 5 keeps them, as single ones; `stacked` joins them again."""
    if entry.kind != "experts" or rules.experts == "as is":
        yield entry
        return
    for number, value in enumerate(entry.value):
        base = f"{entry.path}.{number}"
        if entry.leaf == "gate_up_proj" and not rules.gate_up:
            for part, half in zip(("gate_proj", "up_proj"), np.split(value, 2), strict=True):
                yield Entry(f"{base}.{part}", "weight", half, "linear", entry.sources)
        else:
            yield Entry(f"{base}.{entry.leaf}", "weight", value, "linear", entry.sources)


def changed(entry: Entry, rules: Rules, geometry: Geometry) -> Iterator[Entry]:
    """Rotary permutation, folded scale, norms minus one."""
    value, last = entry.value, entry.path.rpartition(".")[2]
    projection = entry.kind in ("linear", "vector") and last in ("q_proj", "k_proj", "query", "key")
    if projection and rules.rotary:
        grouped = value.reshape(-1, 2, geometry.head_dim // 2, *value.shape[1:])
        value = grouped.swapaxes(1, 2).reshape(value.shape)
    if projection and rules.scale and last in ("q_proj", "query"):
        value = value * np.float32(geometry.head_dim**-0.5)
    if rules.one_plus and entry.kind == "vector" and entry.leaf == "weight":
        value = value - np.float32(1)
    yield replace(entry, value=value)


def laid_out(entry: Entry, rules: Rules, geometry: Geometry) -> Entry:
    """In the layout of the port's framework."""
    value, last = entry.value, entry.path.rpartition(".")[2]
    keeps = rules.framework in ("equinox", "torch")
    if entry.kind == "conv":
        value = value if keeps else value.transpose(*range(2, value.ndim), 1, 0)
    if entry.kind == "experts" and not keeps:
        value = value.swapaxes(1, 2)
    if entry.kind == "conv1d" and keeps:
        value = value.T
    if entry.kind == "linear" and not keeps:
        value = value.T
        heads = {"q_proj": geometry.heads, "query": geometry.heads}.get(last, geometry.kv_heads)
        if rules.split_heads and last in ("q_proj", "k_proj", "v_proj", "query", "key", "value"):
            value = value.reshape(value.shape[0], heads, geometry.head_dim)
        if rules.split_heads and last == "o_proj":
            value = value.reshape(geometry.heads, geometry.head_dim, -1)
    elif (
        entry.kind == "vector"
        and rules.split_heads
        and entry.leaf == "bias"
        and last in ("q_proj", "query")
    ):
        value = value.reshape(geometry.heads, geometry.head_dim)
    return replace(entry, value=value, leaf=_leaf(entry, rules))


def _leaf(entry: Entry, rules: Rules) -> str:
    if entry.leaf == "bias":
        return (
            {"haiku": "b"}.get(rules.framework, "bias")
            if entry.kind != "vector" or not _norm(entry)
            else "bias"
        )
    if rules.framework in ("equinox", "torch") or entry.leaf != "weight":
        return entry.leaf
    if entry.kind == "embedding":
        return "embeddings" if rules.framework == "haiku" else "embedding"
    if entry.kind == "vector":
        return "scale"
    return "w" if rules.framework == "haiku" else "kernel"


def _norm(entry: Entry) -> bool:
    return "norm" in entry.path.casefold() or entry.path.rpartition(".")[2].startswith("ln")
