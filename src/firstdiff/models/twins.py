"""Ports of a checkpoint made by rule: renamed, transposed, fused, stacked, split, scaled; right ones and damaged ones.

What the audit and the map are measured on. numpy alone: a twin is a tree of parameters, nothing that runs. Each
knows which reference parameters every one of its own was made of.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal
from zlib import crc32

import numpy as np

from firstdiff.traces.dtypes import storage
from firstdiff.traces.parameters import Parameter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

Kind = Literal["linear", "conv1d", "embedding", "vector", "experts", "conv", "other"]
QKV = Literal["apart", "flat", "head-major", "interleaved"]


@dataclass(frozen=True)
class Geometry:
    """What cutting the attention of a model into heads takes."""

    heads: int
    """Query heads."""
    kv_heads: int
    """Key and value heads."""
    head_dim: int
    """Channels of a head."""


@dataclass(frozen=True)
class Rules:
    """How a twin is made. The defaults give a linen port with the reference's own names."""

    framework: str = "linen"
    """`linen`, `nnx`, `haiku`, `equinox` (which does not transpose), or empty for a plain tree."""
    names: str = "same"
    """A scheme of `SCHEMES`; `opaque` and `lying` as well."""
    qkv: QKV = "apart"
    """How query, key and value are fused."""
    gate_up: bool = False
    """Whether the two matrices of a gated MLP are fused."""
    experts: Literal["as is", "batched", "looped"] = "as is"
    """How experts are kept."""
    stack: int | None = None
    """Axis on which the layers are stacked; None for a loop."""
    split_heads: bool = False
    """Whether projections keep heads apart: [in, heads, head_dim]."""
    rotary: bool = False
    """Whether q and k rows are permuted from half-split to interleaved pairs."""
    scale: bool = False
    """Whether 1/sqrt(head_dim) is folded into q."""
    one_plus: bool = False
    """Whether norms store w - 1."""
    dtype: str = "float32"
    """`float32` or `bfloat16`."""
    shuffle: bool = False
    """Whether parameters come in another order."""
    tied_copy: bool = False
    """Whether a tied head is a second array."""


@dataclass(frozen=True)
class Entry:
    """One parameter on the way from reference to port."""

    path: str
    """Module, with the reference's words."""
    leaf: str
    """`weight` or `bias`, or what the reference calls it."""
    value: np.ndarray
    """As PyTorch lays it."""
    kind: Kind
    """What it is."""
    sources: tuple[str, ...]
    """Names of the reference parameters that it was made of, in order."""
    fixed: bool = False
    """Whether it has its final layout."""


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
        lambda e: _unfuse(e, rules),
        lambda e: _experts(e, rules),
        lambda e: _changed(e, rules, geometry),
    ]
    for step in steps:
        entries = [new for entry in entries for new in step(entry)]
    done = _fuse(list(entries), rules, geometry)
    done = [_laid_out(entry, rules, geometry) for entry in done]
    if rules.experts == "batched":
        done = _stacked(done, 0, r"experts\.(\d+)\.")
    if rules.stack is not None:
        done = _stacked(done, rules.stack, r"(?:layers|layer|h|blocks)\.(\d+)\.")
    return _named(done, rules, seed)


def _unfuse(entry: Entry, rules: Rules) -> Iterator[Entry]:
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


def _experts(entry: Entry, rules: Rules) -> Iterator[Entry]:
    """Batched experts [E, out, in], as transformers 5 keeps them, as single ones; `_stacked` joins them again."""
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


def _changed(entry: Entry, rules: Rules, geometry: Geometry) -> Iterator[Entry]:
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


def _fuse(entries: list[Entry], rules: Rules, geometry: Geometry) -> list[Entry]:
    by_name = {(e.path, e.leaf): e for e in entries}
    gone: set[tuple[str, str]] = set()
    made: list[Entry] = []
    for entry in entries:
        if (entry.path, entry.leaf) in gone:
            continue
        group = _group(entry, by_name, rules)
        if not group:
            made.append(entry)
            continue
        gone |= {(e.path, e.leaf) for e in group}
        made.append(_joined(group, rules, geometry))
    return made


_FUSIBLE = (("q_proj", "k_proj", "v_proj"), ("query", "key", "value"))


def _group(entry: Entry, by_name: Mapping[tuple[str, str], Entry], rules: Rules) -> list[Entry]:
    """The entries that are fused with ``entry``, the first of them; [] when none are."""
    home, _, last = entry.path.rpartition(".")
    groups = list(_FUSIBLE if rules.qkv != "apart" else ())
    groups += [("gate_proj", "up_proj")] if rules.gate_up else []  # type: ignore[list-item]  # pairs and triples
    for names in groups:
        found = [by_name.get((f"{home}.{name}", entry.leaf)) for name in names]
        if last == names[0] and all(e is not None for e in found):
            return [e for e in found if e is not None]
    return []


def _joined(group: list[Entry], rules: Rules, geometry: Geometry) -> Entry:
    first = group[0]
    home = first.path.rpartition(".")[0]
    values = [e.value for e in group]
    equal = len({v.shape for v in values}) == 1
    if len(group) == 2 or rules.qkv == "flat" or (rules.qkv == "interleaved" and not equal):
        value = np.concatenate(values)
    elif rules.qkv == "interleaved":
        value = np.stack(values, axis=1).reshape(-1, *first.value.shape[1:])
    else:
        groups = geometry.kv_heads
        value = np.concatenate([v.reshape(groups, -1, *v.shape[1:]) for v in values], axis=1)
        value = value.reshape(-1, *first.value.shape[1:])
    name = "gate_up_proj" if len(group) == 2 else "qkv_proj"
    return replace(
        first,
        path=f"{home}.{name}",
        value=value,
        sources=tuple(s for e in group for s in e.sources),
    )


def _laid_out(entry: Entry, rules: Rules, geometry: Geometry) -> Entry:
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


def _stacked(entries: list[Entry], axis: int, pattern: str) -> list[Entry]:
    """Entries that differ only in the number that ``pattern`` finds, as one with a new axis."""
    groups: dict[tuple[str, str], list[Entry]] = {}
    for entry in entries:
        found = re.search(pattern, f"{entry.path}.")
        path = entry.path
        if found:
            path = f"{entry.path}."[: found.start(1)] + f"{entry.path}."[found.end(1) + 1 :]
            path = path.rstrip(".")
        groups.setdefault(
            (path, entry.leaf if found else f"{entry.leaf}\0{entry.path}"), []
        ).append(entry)
    made = []
    for (path, leaf), members in groups.items():
        if "\0" in leaf or len({e.value.shape for e in members}) > 1:
            made += members
            continue
        place = min(axis, members[0].value.ndim)
        value = np.stack([e.value for e in members], axis=place)
        sources = tuple(s for e in members for s in e.sources)
        made.append(replace(members[0], path=path, value=value, sources=sources))
    return made


SCHEMES: dict[str, dict[str, str]] = {
    "same": {},
    "meta": {
        "self_attn": "attention", "q_proj": "wq", "k_proj": "wk", "v_proj": "wv", "o_proj": "wo", "mlp": "feed_forward",
        "gate_proj": "w1", "up_proj": "w3", "down_proj": "w2", "input_layernorm": "attention_norm",
        "post_attention_layernorm": "ffn_norm", "embed_tokens": "tok_embeddings", "lm_head": "output",
    },
    "gemma": {
        "self_attn": "attn", "q_proj": "q_einsum", "o_proj": "attn_vec_einsum", "gate_up_proj": "gating_einsum",
        "down_proj": "linear", "input_layernorm": "pre_attention_norm", "post_attention_layernorm": "pre_ffw_norm",
        "embed_tokens": "embedder", "norm": "final_norm", "layers": "layer",
    },
    "flax": {"layers": "layers_", "h": "h_", "layer": "layer_"},
}  # fmt: skip
"""Words of the port by words of the reference."""


def _named(entries: list[Entry], rules: Rules, seed: int) -> Twin:
    random = np.random.default_rng([seed, 7])
    if rules.shuffle:
        entries = [entries[i] for i in random.permutation(len(entries))]
    rename = _renamer(entries, rules, random)
    values, sources = {}, {}
    for entry in entries:
        name = f"{rename(entry.path)}.{entry.leaf}".lstrip(".")
        values[name] = _cast(np.ascontiguousarray(entry.value), rules.dtype)
        sources[name] = entry.sources
    return Twin(values, sources, rules.framework, rename)


def _renamer(
    entries: list[Entry], rules: Rules, random: np.random.Generator
) -> Callable[[str], str]:
    words = sorted({part for e in entries for part in e.path.split(".") if not part.isdigit()})
    if rules.names == "opaque":
        table = {
            word: f"m{i}" for i, word in zip(random.permutation(len(words)), words, strict=True)
        }
    elif rules.names == "lying":
        table = _lies(words)
    else:
        table = SCHEMES[rules.names]

    def other(part: str) -> str:
        """A word that names no parameter: an activation function, a dropout."""
        hide = rules.names == "opaque" and part and not part.isdigit()
        return f"n{crc32(part.encode()) % 997}" if hide else part

    def rename(path: str) -> str:
        text = ".".join(table.get(part) or other(part) for part in path.split("."))
        return re.sub(r"_\.(\d+)", r"_\1", text)

    return rename


def _lies(words: list[str]) -> dict[str, str]:
    """Names as a published Mixtral port and others have them: not the reference's, and each says something else."""
    lies = {
        "gate_proj": "up", "up_proj": "gate", "down_proj": "wo", "o_proj": "out", "input_layernorm": "ffn_norm",
        "post_attention_layernorm": "attn_norm", "q_proj": "key", "k_proj": "query", "query": "wk", "key": "wq",
    }  # fmt: skip
    return {word: lies[word] for word in words if word in lies}


def _cast(value: np.ndarray, dtype: str) -> np.ndarray:
    if dtype == "bfloat16":
        import ml_dtypes

        return value.astype(ml_dtypes.bfloat16)
    return value.astype(dtype)


def _constant(value: np.ndarray) -> Callable[[], np.ndarray]:
    return lambda: value


def port_modules(
    modules: Iterable[tuple[str, str]], made: Twin, names: Iterable[str]
) -> tuple[list[tuple[str, str]], dict[str, str]]:
    """The modules of a twin as its trace would list them, in the order of running, and the truth of the map.

    ``modules`` are the reference's (path, class), ``names`` its parameters. Layers of a stack are spelt `layers.0`.
    A reference module of which the port has only a fused or split form is in the list, under that, but has no truth.
    """
    owners = {name.rpartition(".")[0] for name in names}
    there: dict[str, str] = {}
    listed: dict[str, str] = {}
    exact = {s for name, sources in made.sources.items() for s in sources if made.is_whole(name)}
    for path, class_name in modules:
        own = [name for name in names if name.rpartition(".")[0] == path]
        if path in owners and not all(name in exact for name in own):
            for name, sources in made.sources.items():
                if any(s.rpartition(".")[0] == path for s in sources):
                    listed.setdefault(made.place(name, path), "")
            continue
        homes = [
            made.place(n, path) for n, sources in made.sources.items() if set(own) & set(sources)
        ]
        fused = path in owners and made.rename(path) not in homes
        there[path] = homes[0] if fused else made.rename(path)
        listed.setdefault(there[path], "")
        del class_name
    return list(listed.items()), there
