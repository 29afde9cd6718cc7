"""The records of a trace. Apart from writer and reader, which both translate them to HDF5."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np

    from firstdiff.traces.part import Part

FORMAT_VERSION = 1
"""Version of the file format. A reader refuses a trace of a newer one."""

Site = Literal["input", "output"]
Level = Literal["module", "function", "op"]
"""How deep a capture looks: modules; also the functions that they call; also every operation."""
FUNCTION_MARK = "()"
"""Ends `Key.method` of a function: `apply_rotary_pos_emb()`."""
OP_MARK = "::"
"""Stands in `Key.method` of an operation, after its framework: `aten::mul`, `jax::dot_general`."""


@dataclass(frozen=True)
class Axis:
    """Where a value came from inside a transformed function: one entry per enclosing transformation."""

    kind: Literal["scan", "vmap", "cond", "while", "shards"]
    """The transformation."""
    size: int
    """Iterations of a scan, batch of a vmap, trip count of a while loop, number of shards, branches of a cond."""
    index: int | None = None
    """Which iteration, branch or shard this activation is; None when the axis is the array's leading one."""


@dataclass(frozen=True)
class Key:
    """What names an activation. Two activations of one trace never share a key."""

    path: str
    """Dotted module path as its framework spells it, `model.layers.0.self_attn`; the root module is ``""``."""
    site: Site
    """Whether the module received or returned the value."""
    leaf: str = ""
    """Place inside the arguments (`hidden_states`, `position_embeddings.0`) or the result (`""`, `0`, `logits`)."""
    method: str = "forward"
    """The method called: `forward` in PyTorch, `__call__` or `attend` in JAX. Below the level of modules: the
    function that the module ran, `rotate_half()`, or the operation, `aten::mul`."""
    call: int = 0
    """Call index: this is the n-th call of that method of that module in one step, from 0."""
    step: int = 0
    """The n-th forward pass of one capture, from 0."""

    @property
    def level(self) -> Level:
        """Whether this names a value of a module, of a function that it called, or of an operation."""
        return level_of(self.method)


def level_of(method: str) -> Level:
    """The level that the spelling of `Key.method` says."""
    if OP_MARK in method:
        return "op"
    return "function" if method.endswith(FUNCTION_MARK) else "module"


@dataclass(frozen=True)
class Digest:
    """Statistics of one activation, enough to localise a divergence without its elements."""

    count: int
    """Number of elements."""
    nan: int
    """Number of NaN elements."""
    posinf: int
    """Number of +inf elements."""
    neginf: int
    """Number of -inf elements."""
    mean: float
    """Mean of the finite elements, 0 when there are none; float64. Layout-invariant, like rms, min and max."""
    rms: float
    """Root mean square of the finite elements, 0 when there are none."""
    min: float
    """Smallest finite element, 0 when there are none."""
    max: float
    """Largest finite element, 0 when there are none."""
    checksum: int
    """64-bit checksum of dtype, shape and bytes: equal activations have equal checksums."""
    sketch: np.ndarray | None = field(default=None, compare=False, repr=False)
    """float64[64] count sketch: the distance of two sketches estimates the L2 distance of the tensors."""


@dataclass(frozen=True)
class Place:
    """Where an activation's bytes lie in the file."""

    dataset: str
    """HDF5 path of the dataset that holds them: the activation's own, or a slab shared by small ones."""
    offset: int
    """Byte offset inside that dataset, 0 for a dataset of its own."""
    nbytes: int
    """Number of bytes."""


@dataclass(frozen=True)
class Activation:
    """One recorded tensor: a row of the index."""

    order: int
    """Position in execution order, over the whole capture, from 0."""
    key: Key
    """What names it."""
    dtype: str
    """Logical dtype by its numpy or ml_dtypes name: `float32`, `bfloat16`, `float8_e4m3fn`, `int64`, `bool`."""
    shape: tuple[int, ...]
    """Shape; () for a scalar."""
    class_name: str = ""
    """Class of the module, `Qwen2RMSNorm`; of a function or an operation, the function whose code it stands in."""
    axes: tuple[Axis, ...] = ()
    """Enclosing transformations, outermost first."""
    source: str = ""
    """`file:line` in the user's code that made the value, when known; of a function, where it is called."""
    digest: Digest | None = None
    """Statistics computed at capture."""
    place: Place | None = None
    """None in a digest-only trace."""
    part: Part | None = None
    """For a part of a recorded activation, what it was cut from; never stored."""


@dataclass(frozen=True)
class Header:
    """What a trace knows about its own making. Free of framework objects: JSON goes in and out."""

    framework: str
    """`torch` or `jax`."""
    front_end: str = ""
    """What placed the taps: `torch`, `linen`, `functions`, several joined by `+`."""
    subject: str = ""
    """The subject as the user wrote it: `hf:./Qwen2.5-0.5B`, `my_port.py:build`."""
    model: dict[str, Any] = field(default_factory=dict)
    """`class`, `type` (qwen2), `config` in full, `config_hash` (sha256 of its canonical JSON), `parameters` (count)."""
    dtype: str = ""
    """Dtype of most of the parameters."""
    device: str = ""
    """`cpu`, `cuda:0`, `TPU v5e`."""
    mode: str = ""
    """`eager` or `jit`."""
    versions: dict[str, str] = field(default_factory=dict)
    """Package versions: firstdiff, python, torch or jax, transformers, numpy."""
    precision: dict[str, Any] = field(default_factory=dict)
    """Every switch that changes arithmetic: matmul precision, TF32, x64, excess precision, attention implementation."""
    selection: dict[str, Any] = field(default_factory=dict)
    """What was asked for: globs, sites, digest-only."""
    output_check: dict[str, Any] = field(default_factory=dict)
    """`checked`, `bitwise`, `max_abs`: model output with capture against output without it."""
    modules: tuple[tuple[str, str], ...] = ()
    """Every module of the model as (path, class name), in the model's own order."""
    aliases: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Other paths of a shared module, by the path under which it is recorded."""
    never_fired: tuple[str, ...] = ()
    """Modules of the tree that recorded nothing."""
    notes: tuple[str, ...] = ()
    """Sentences for people: what could not be recorded, and why."""
    created: str = ""
    """UTC time, ISO 8601."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Room for later fields, kept through a round trip."""

    @property
    def tracing(self) -> str:
        """Whether tracing changed the model's output, in words; empty where nobody looked, or where two plain runs
        differ as well (a note says so)."""
        if not self.output_check.get("checked") or self.output_check.get("deterministic") is False:
            return ""
        if self.output_check.get("bitwise"):
            return "tracing did not change the output"
        return f"tracing changed the output by at most {self.output_check.get('max_abs', math.nan):.1e}"
